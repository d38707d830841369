"""Samples of an order of packets that the capture did not see: excused if that order is next to the capture's, else false."""
import contextlib, io, random, tempfile, unittest

import compare, crossing
from oracle import FIELDS, Oracle
from seq import Seq
from test_compare import LOCAL, MS, conversation

SHARE = 0.005
TRAFFIC = [dict(row, sack=False) for row in sorted(conversation(40000, 200_000, 1) + conversation(40001, 2 * MS, 2), key=lambda row: row["t"])]


def line(p):
    """A packet as tshark prints it."""
    number = lambda value: "" if value is None else str(value)
    known = {"frame.time_epoch": f"{p['t'] // 10**9}.{p['t'] % 10**9:09}", "ip.src": p["src"][0], "ip.dst": p["dst"][0],
             "tcp.srcport": p["src"][1], "tcp.dstport": p["dst"][1], "tcp.flags": hex(p["flags"]), "tcp.seq_raw": p["seq"],
             "tcp.ack_raw": p["ack"], "tcp.len": p["len"], "tcp.hdr_len": 20 + p["opts"],
             "tcp.options.timestamp.tsval": number(p["val"]), "tcp.options.timestamp.tsecr": number(p["ecr"]),
             "tcp.options.mss_val": number(p["mss"])}
    return "\t".join(str(known.get(field, "")) for field in FIELDS)


def samples(rows, method):
    """What the reference finds in packets of this order."""
    reference = Oracle([LOCAL]) if method == "ts" else Seq([LOCAL], forced=True)
    for p in rows:
        reference.packet(dict(p))
    return [dict(s, method=method) for s in reference.samples]


def monitored(rows, method):
    """What a monitor gives of them: of one ACK the oldest."""
    groups = compare.groups(samples(rows, method))
    return [group[0] for group in groups]


def swaps(rows, near):
    """The captures in which two neighbours of one flow have changed places."""
    last = {}
    for n, p in enumerate(rows):
        flow = frozenset((p["src"], p["dst"]))
        before = last.get(flow)
        last[flow] = n
        if before is not None and p["t"] - rows[before]["t"] < near and not p["flags"] & 2:
            changed = list(rows)
            changed[before], changed[n] = dict(p, t=rows[before]["t"]), dict(rows[before], t=p["t"])
            yield changed


class Crossing(unittest.TestCase):
    def verdict(self, method, rows, watch, *options):
        with tempfile.NamedTemporaryFile("w", suffix=".tsv") as fields, contextlib.redirect_stdout(io.StringIO()):
            fields.writelines(line(p) + "\n" for p in rows)
            fields.flush()
            args = ["-", "-", "--min-samples", "300", "--method", method, "--crossed", str(SHARE), "--late", str(SHARE),
                    "--fields", fields.name, "--local", LOCAL, "--forced", "--coverage", "0.98", "--mean", "1000", *options]
            return compare.compare(samples(rows, method), watch, compare.ask(args))

    def test_an_order_next_to_the_captures_is_excused(self):
        """Whichever neighbours changed places: of twenty such captures each shows the hook's samples to be right."""
        for method in ("ts", "seq"):
            hook = monitored(TRAFFIC, method)
            captures = list(swaps(TRAFFIC, 400_000))
            differ = 0
            for rows in random.Random(5).sample(captures, 20):
                pairs, _, false = compare.pair(samples(rows, method), hook)
                differ += bool(false)
                self.assertEqual(self.verdict(method, rows, hook), [], method)
            self.assertGreater(differ, 0, "some order must matter")

    def test_what_no_order_explains_is_false(self):
        for method in ("ts", "seq"):
            watch = monitored(TRAFFIC, method)
            for wrong in (dict(watch[0], id=7), dict(watch[50]), dict(watch[50], id=watch[51]["id"])):
                found = self.verdict(method, TRAFFIC, watch + [wrong])
                self.assertTrue(any("1 false" in reason for reason in found), (method, wrong, found))

    def test_many_are_false_whatever_explains_them(self):
        watch = samples(TRAFFIC, "ts")
        captures = swaps(TRAFFIC, 400_000)
        few = int(SHARE * len(watch)) + 2
        odd = next(false for rows in captures if (false := compare.pair(samples(rows, "ts"), watch)[2]))
        self.assertNotEqual(self.verdict("ts", TRAFFIC, watch + few * [odd[0][0]]), [])

    def test_far_neighbours_do_not_change_places(self):
        rows = [dict(t=n * crossing.NEAR_NS * 2, src=n) for n in range(3)]
        self.assertIsNone(crossing.moved(rows, 0, 1))
        self.assertIsNone(crossing.moved(rows, 0, -1))


if __name__ == "__main__":
    unittest.main()
