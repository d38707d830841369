"""The oracle on lines as tshark prints them, and on what no vector says."""
import subprocess, sys, unittest

from oracle import FIELDS, Oracle, newer, parse

POD, FAR = ("198.18.1.2", 41140), ("198.18.2.2", 5301)


def line(t, src, flags, seq, ack, length, val="", ecr="", mss="", sack="", six=False):
    """A line of `tshark -T fields`; t in microseconds."""
    dst = FAR if src == POD else POD
    ends = ["", "", "fd00::" + src[0][-3], "fd00::" + dst[0][-3]] if six else [src[0], dst[0], "", ""]
    return "\t".join(map(str, [f"1700000000.{t:06d}000", *ends, src[1], dst[1], f"0x{flags:04x}", seq, ack, length,
                               32 if val != "" else 20, val, ecr, mss, sack])) + "\n"


HANDSHAKE = [line(0, POD, 2, 999, 0, 0, 100, 0, 1460), line(5000, FAR, 18, 4999, 1000, 0, 900, 100, 1460),
             line(5010, POD, 16, 1000, 5000, 0, 105, 900)]


def samples(lines, local=POD[0], mutate=None):
    """(rtt in us, leg, echo, id) of what the oracle finds."""
    oracle = Oracle([local], mutate)
    for text in lines:
        oracle.packet(parse(text))
    return [(s["rtt_ns"] // 1000, s["leg"], s["echo"], s["id"]) for s in oracle.samples]


class Lines(unittest.TestCase):
    def test_a_line_is_read_exactly(self):
        row = parse("1700000000.123456789\t198.18.1.2\t198.18.2.2\t\t\t1\t2\t0x0018\t4294967295\t7\t10\t32\t0\t5\t\t\n")
        self.assertEqual(row["t"], 1700000000123456789)
        self.assertEqual((row["src"], row["flags"], row["seq"], row["len"], row["opts"]), (("198.18.1.2", 1), 24, 2**32 - 1, 10, 12))
        self.assertEqual((row["val"], row["ecr"], row["mss"]), (0, 5, None))

    def test_an_empty_ack_and_short_fractions(self):
        row = parse("1.5\t\t\tfd00::1\tfd00::2\t1\t2\t0x0002\t1\t\t0\t40\t\t\t1440\t\n")
        self.assertEqual((row["t"], row["src"][0], row["ack"], row["val"], row["mss"]), (1_500_000_000, "fd00::1", 0, None, 1440))

    def test_there_is_a_column_per_field(self):
        self.assertEqual(len(line(0, POD, 2, 1, 0, 0).split("\t")), len(FIELDS))

    def test_newer_is_modulo_2_to_31(self):
        self.assertTrue(newer(0, 2**32 - 1) and newer(1, 0) and newer(0, None))
        self.assertFalse(newer(0, 0) or newer(2**31, 0) or newer(2**32 - 1, 0))

    def test_request_response_both_legs(self):
        talk = HANDSHAKE + [line(6000, POD, 24, 1000, 5000, 100, 110, 900), line(11000, FAR, 24, 5000, 1100, 9, 950, 110),
                            line(11020, POD, 16, 1100, 5009, 0, 115, 950)]
        self.assertEqual(samples(talk), [(5000, "remote", "data", 110), (20, "local", "lone", 950)])

    def test_what_a_blind_forger_sends_changes_nothing(self):
        """A RST, and an acknowledgment with a TSval from nowhere, both from the far end's address."""
        forged = [line(5500, FAR, 4, 3_000_000_000, 0, 0), line(5600, FAR, 16, 3_000_000_000, 7, 0, 2_000_000, 3)]
        talk = [line(6000, POD, 24, 1000, 5000, 100, 110, 900), line(11000, FAR, 24, 5000, 1100, 9, 950, 110),
                line(11020, POD, 16, 1100, 5009, 0, 115, 950)]
        self.assertEqual(samples(HANDSHAKE + forged + talk), samples(HANDSHAKE + talk))
        self.assertEqual(len(samples(HANDSHAKE + talk)), 2)
        near = [line(5500, FAR, 4, 5000, 0, 0)]
        self.assertEqual(samples(HANDSHAKE + near + talk), [], "a true one ends it: the first TSvals are no edges")

    def test_ipv6(self):
        talk = [line(0, POD, 16, 1, 1, 0, 1, 1, six=True), line(10, POD, 16, 1, 1, 5, 2, 1, six=True),
                line(30, FAR, 16, 1, 6, 0, 8, 2, six=True)]
        self.assertEqual(samples(talk, local="fd00::1"), [(20, "remote", "lone", 2)])

    def test_flows_do_not_mix(self):
        talk = HANDSHAKE + [line(6000, POD, 24, 1000, 5000, 100, 110, 900),
                            line(11000, FAR, 24, 5000, 1100, 9, 950, 110).replace("41140", "41141")]
        self.assertEqual(samples(talk), [])

    def test_four_outstanding_are_not_all_demanded(self):
        oracle = Oracle([POD[0]])
        for text in HANDSHAKE + [line(6000 + k, POD, 16, 1000 + k, 5000, 1, 110 + k, 900) for k in range(5)] + [
                line(11000 + k, FAR, 16, 5000, 1001 + k, 0, 950, 110 + k) for k in range(5)]:
            oracle.packet(parse(text))
        self.assertEqual([s["allowed"] for s in oracle.samples], [True, True, True, False, False])


class Mutations(unittest.TestCase):
    def test_any_tsval_takes_an_old_one(self):
        talk = HANDSHAKE + [line(6000, POD, 16, 1000, 5000, 9, 110, 900), line(6100, POD, 16, 1000, 5000, 9, 110, 900),
                            line(11000, FAR, 16, 5000, 1009, 0, 950, 110)]
        self.assertEqual(samples(talk)[0][0], 5000)
        self.assertEqual(samples(talk, mutate="any-tsval")[0][0], 4900)

    def test_pure_ack_is_stamped(self):
        talk = HANDSHAKE + [line(11000, FAR, 24, 5000, 1000, 9, 950, 105)]
        self.assertEqual(samples(talk), [])
        self.assertEqual(samples(talk, mutate="pure-ack"), [(5990, "remote", "data", 105)])

    def test_overwritten_slots_lose_the_oldest(self):
        talk = HANDSHAKE + [line(6000 + k, POD, 16, 1000 + k, 5000, 1, 110 + k, 900) for k in range(4)] + [
            line(11000, FAR, 16, 5000, 1001, 0, 950, 110)]
        self.assertEqual(samples(talk), [(5000, "remote", "lone", 110)])
        self.assertEqual(samples(talk, mutate="overwrite-slots"), [])

    def test_a_forgotten_match_is_stamped_again(self):
        talk = HANDSHAKE + [line(6000 + 20 * k + j * 10, *((POD, 16, 1000 + k, 5000, 1, 110, 900) if not j else
                                                           (FAR, 16, 5000, 1001 + k, 0, 900, 110))) for k in range(3) for j in (0, 1)]
        self.assertEqual(len(samples(talk)), 1)
        self.assertEqual(len(samples(talk, mutate="forget-match")), 3)


class Command(unittest.TestCase):
    def test_pipes(self):
        talk = "".join(HANDSHAKE + [line(6000, POD, 24, 1000, 5000, 100, 110, 900), line(11000, FAR, 16, 5000, 1100, 0, 950, 110)])
        out = subprocess.run([sys.executable, "oracle.py", "--local", POD[0]], input=talk, text=True, capture_output=True, check=True,
                             cwd=__file__.rpartition("/")[0] or ".")
        self.assertIn('"rtt_ns": 5000000', out.stdout)


if __name__ == "__main__":
    unittest.main()
