"""The vectors of tests/vectors/ts.json, expected by hand, against the oracle."""
import json, pathlib, unittest

from oracle import Oracle

VECTORS = pathlib.Path(__file__).parent.parent / "vectors" / "ts.json"
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
        cases = json.loads(VECTORS.read_text())
        self.assertGreaterEqual(len(cases), 30)
        self.assertEqual(len({c["name"] for c in cases}), len(cases))
        for case in cases:
            with self.subTest(case["name"]):
                want = [(s["at"], s["rtt_ns"], s["leg"], s["echo"], s["id"]) for s in case["samples"]]
                found = play(case["packets"])
                self.assertEqual([f[:5] for f in found], want)
                # What the vectors demand of everybody must be what the slot policy allows.
                for f, s in zip(found, case["samples"]):
                    self.assertTrue(f[5] or s.get("may_skip"), (case["name"], s))

    def test_times_are_exact_in_64_ns(self):
        for case in json.loads(VECTORS.read_text()):
            for packet in case["packets"]:
                self.assertEqual(packet["t_ns"] % 6400, 0, case["name"])


if __name__ == "__main__":
    unittest.main()
