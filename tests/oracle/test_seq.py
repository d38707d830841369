"""The vectors of tests/vectors/seq.json and odd_seq.json, expected by hand, against the readings of seq.py and handshake.py."""
import json, pathlib, unittest

from handshake import Handshake
from oracle import Oracle
from seq import Seq, after
from slotted_seq import RULES, Slotted
from test_oracle import FAR, POD, line
from test_vectors import LOCAL, row

CASES = json.loads((pathlib.Path(__file__).parent.parent / "vectors" / "seq.json").read_text())
ODD = json.loads((pathlib.Path(__file__).parent.parent / "vectors" / "odd_seq.json").read_text())
ALL = ["ts", "seq", "handshake"]


class Readings:
    """All methods of a case, side by side."""

    def __init__(self, on):
        self.seq = Seq([LOCAL[0]], forced="ts" not in on)
        makes = dict(ts=lambda: Oracle([LOCAL[0]]), seq=lambda: self.seq, handshake=lambda: Handshake([LOCAL[0]]))
        self.parts = [(name, make()) for name, make in makes.items() if name in on]

    def packet(self, at, p):
        """What a packet gives: of several stamps that one ACK covers, the oldest."""
        found, groups = [], set()
        for name, part in self.parts:
            part.packet(dict(p))
            for s in part.samples:
                if s.get("group") not in groups:
                    found.append((at, s["rtt_ns"], s["leg"], s["echo"], s["id"], name, s["allowed"]))
                groups.add(s.get("group", object()))
            part.samples.clear()
        if "seq" not in dict(self.parts):
            self.seq.packet(dict(p))
        return found


class SecondReading:
    """slotted_seq.py alone."""

    def __init__(self, on, broken=None):
        self.seq = Slotted([LOCAL[0]], forced="ts" not in on, broken=broken)

    def packet(self, at, p):
        self.seq.packet(dict(p))
        found = [(at, s["rtt_ns"], s["leg"], s["echo"], s["id"]) for s in self.seq.samples]
        self.seq.samples.clear()
        return found


def wrong(broken=None):
    """Names of the vectors that the second reading does not pass."""
    names = []
    for case in CASES:
        on = case.get("methods", ALL)
        if "seq" in on:
            reading = SecondReading(on, broken)
            found = [s for at, v in enumerate(case["packets"]) for s in reading.packet(at, row(v))]
            known = {(s["at"], s["rtt_ns"], s["leg"], s["echo"], s["id"]): s for s in case["samples"] if s["method"] == "seq"}
            missing = [k for k, s in known.items() if k not in found and not s.get("may_skip")]
            names += [case["name"]] if missing or set(found) - known.keys() else []
    return names


class Vectors(unittest.TestCase):
    def test_the_second_reading_passes(self):
        self.assertEqual(wrong(), [])

    def test_every_broken_rule_fails(self):
        for rule in RULES:
            with self.subTest(rule):
                self.assertNotEqual(wrong(rule), [])

    def test_every_vector_of_seq(self):
        self.assertGreaterEqual(len(CASES), 100)
        self.assertGreaterEqual(len(ODD), 16)
        self.assertEqual(len({c["name"] for c in CASES + ODD}), len(CASES + ODD))
        for case in CASES + ODD:
            with self.subTest(case["name"]):
                readings = Readings(case.get("methods", ALL))
                found = [s for at, v in enumerate(case["packets"]) for s in readings.packet(at, row(v))]
                known = {(s["at"], s["rtt_ns"], s["leg"], s["echo"], s["id"], s["method"]): s for s in case["samples"]}
                self.assertEqual([f for f in found if f[:6] not in known], [], "false")
                sure = {f[:6] for f in found if f[6]}
                self.assertEqual([k for k, s in known.items() if not s.get("may_skip") and k not in sure], [], "missing")
                if "retransmissions" in case:
                    self.assertEqual(readings.seq.retransmissions.total(), case["retransmissions"])

    def test_times_are_exact_in_64_ns(self):
        for case in CASES + ODD:
            for packet in case["packets"]:
                self.assertEqual(packet["t_ns"] % 6400, 0, case["name"])


OPEN = [line(0, POD, 2, 999, 0, 0, mss=1460), line(5000, FAR, 18, 4999, 1000, 0, mss=1460), line(5010, POD, 16, 1000, 5000, 0)]


def found(method, lines):
    from oracle import samples
    return [(s["rtt_ns"] // 1000, s["leg"], s["echo"], s["id"], s["allowed"]) for s in samples(method, lines)]


class Lines(unittest.TestCase):
    def test_all_that_an_ack_covers_is_listed_the_oldest_first(self):
        talk = OPEN + [line(6000 + k, POD, 16, 1000 + k, 5000, 1) for k in range(5)] + [line(11000, FAR, 16, 5000, 1005, 0)]
        self.assertEqual(found(Seq([POD[0]]), talk),
                         [(5000 - k, "remote", "lone", 1001 + k, k < 3) for k in range(5)])

    def test_acks_at_once_may_change_places(self):
        def marks(gap):
            talk = OPEN + [line(6000 + k, POD, 16, 1000 + k, 5000, 1) for k in range(2)] + [
                line(11000 + gap * k, FAR, 16, 5000, 1001 + k, 0) for k in range(2)]
            seq = Seq([POD[0]])
            found(seq, talk)
            return [s.get("crossed", False) for s in seq.samples]
        self.assertEqual(marks(20), [True, True])
        self.assertEqual(marks(21), [False, False])

    def test_packets_may_be_taken_by_their_times(self):
        from oracle import samples
        talk = OPEN + [line(11000, FAR, 16, 5000, 1009, 0), line(6000, POD, 16, 1000, 5000, 9)]
        for by_time, want in ((False, []), (True, [5_000_000])):
            found = samples(Seq([POD[0]]), talk, by_time)
            self.assertEqual([s["rtt_ns"] for s in found], want)

    def test_sack_is_read(self):
        talk = OPEN + [line(6000, POD, 16, 1000, 5000, 9), line(11000, FAR, 16, 5000, 1009, 0, sack="1020,1040")]
        self.assertEqual(found(Seq([POD[0]]), talk), [])

    def test_the_handshake_of_lines(self):
        self.assertEqual(found(Handshake([POD[0]]), OPEN), [(5000, "remote", "prompt", 1000, True), (10, "local", "lone", 5000, True)])

    def test_beyond_is_modulo_2_to_31(self):
        self.assertTrue(after(0, 2**32 - 1) and after(2**31 - 1, 0))
        self.assertFalse(after(0, 0) or after(2**31, 0) or after(2**32 - 1, 0))


if __name__ == "__main__":
    unittest.main()
