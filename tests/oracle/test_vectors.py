"""The vectors of tests/vectors/ts.json and odd_ts.json, expected by hand, against the oracle."""
import json, pathlib, unittest

from oracle import Oracle

FILES = [pathlib.Path(__file__).parent.parent / "vectors" / name for name in ("ts.json", "odd_ts.json")]
LOCAL, REMOTE = ("198.18.0.1", 40000), ("198.18.0.2", 5301)
BITS = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16}


def row(v):
    """A packet of a vector as the oracle takes it."""
    src, dst = (LOCAL, REMOTE) if v["dir"] == "from_local" else (REMOTE, LOCAL)
    return dict(t=v["t_ns"], src=src, dst=dst, flags=sum(BITS[f] for f in v["flags"]), seq=v["seq"], ack=v["ack"],
                len=v["payload"], opts=0 if v.get("tsval") is None else 12, val=v.get("tsval"), ecr=v.get("tsecr"),
                mss=v.get("mss"), gso=v.get("gso_size"), sack=bool(v.get("sack")))


def play(packets):
    """The samples that the oracle finds in a vector's packets, in the vectors' form."""
    oracle, found = Oracle([LOCAL[0]]), []
    for at, packet in enumerate(packets):
        oracle.packet(row(packet))
        found += [(at, s["rtt_ns"], s["leg"], s["echo"], s["id"], s["allowed"]) for s in oracle.samples]
        oracle.samples.clear()
    return found


class Vectors(unittest.TestCase):
    def test_every_vector(self):
        cases = [case for file in FILES for case in json.loads(file.read_text())]
        self.assertGreaterEqual(len(cases), 80)
        self.assertEqual(len({c["name"] for c in cases}), len(cases))
        for case in cases:
            with self.subTest(case["name"]):
                known = {(s["at"], s["rtt_ns"], s["leg"], s["echo"], s["id"]): s for s in case["samples"]}
                found = play(case["packets"])
                self.assertEqual([f for f in found if f[:5] not in known], [], "false")
                # What the vectors demand of everybody must be what the slot policy allows.
                sure = {f[:5] for f in found if f[5]}
                self.assertEqual([k for k, s in known.items() if not s.get("may_skip") and k not in sure], [], "missing")
                self.assertEqual(len(found), len({f[:5] for f in found}), "twice")

    def test_what_slots_may_skip_is_known_without_them(self):
        for case in json.loads(FILES[0].read_text()):
            with self.subTest(case["name"]):
                want = [(s["at"], s["rtt_ns"], s["leg"], s["echo"], s["id"]) for s in case["samples"]]
                self.assertEqual([f[:5] for f in play(case["packets"])], want)

    def test_times_are_exact_in_64_ns(self):
        for case in [case for file in FILES for case in json.loads(file.read_text())]:
            for packet in case["packets"]:
                self.assertEqual(packet["t_ns"] % 6400, 0, case["name"])


if __name__ == "__main__":
    unittest.main()
