"""The comparison: passes for a second reading of the rules, fails for every broken rule."""
import contextlib, io, random, unittest

import compare
from oracle import MUTATIONS, Oracle
from slotted import Slotted

LOCAL, REMOTE, MS, MSS = "198.18.1.2", "198.18.2.2", 1_000_000, 1448


def conversation(port, rtt, seed):
    """Rows of one TCP flow at the pod's veth: bulk up in bursts, small requests down, loss, delayed ACKs, idle gaps."""
    rnd, rows = random.Random(seed), []
    up, down = (LOCAL, port), (REMOTE, 5301)

    def add(t, src, flags, seq, ack, length, ecr, mss=None):
        rows.append(dict(t=t, src=src, dst=down if src == up else up, flags=flags, seq=seq, ack=ack, len=length, opts=12,
                         val=(0xFFFFFF80 + t // MS) % 2**32, ecr=ecr, mss=mss, gso=None))

    clock = lambda t: (0xFFFFFF80 + t // MS) % 2**32
    add(0, up, 2, 0, 0, 0, 0, 1460)
    add(rtt, down, 18, 0, 1, 0, clock(0), 1460)
    add(rtt + 40_000, up, 16, 1, 1, 0, clock(rtt))
    t, seq, dseq = rtt + 2 * MS, 1, 1
    for _ in range(250):
        first = t
        for k in range(rnd.randrange(1, 6)):                 # full segments, some resent a little later
            sent = t + k * rnd.choice((2_000, 400_000))
            add(sent, up, 16, seq, dseq, MSS, clock(rtt))
            if rnd.random() < 0.03:
                add(sent + 300_000, up, 16, seq, dseq, MSS, clock(rtt))
            seq += MSS
        late = 40 * MS if rnd.random() < 0.1 else 0          # the delayed-ACK timer
        late, ecr = t + rtt + late, clock(first)
        if rnd.random() < 0.7:
            add(late + 3 * MS, down, 16, dseq, seq, 0, ecr)
        for k in range(rnd.randrange(0, 6)):                 # responses, answered by the pod within microseconds
            at = late + 4 * MS + k * 90_000
            add(at, down, 24, dseq, seq, 100, ecr)
            dseq += 100
            add(at + 30_000, up, 16, seq, dseq, 0, clock(at))
            ecr = clock(at + 30_000)
        t += rnd.choice((5 * MS, 5 * MS, 9 * MS, 300 * MS))
    return rows


TRAFFIC = sorted((row for n, rtt in enumerate((200_000, 2 * MS, 20 * MS, 100 * MS) * 4)
                  for row in conversation(40000 + n, rtt, n)), key=lambda row: row["t"])


def run(make):
    matcher = make()
    for row in TRAFFIC:
        matcher.packet(dict(row))
    return matcher


def fails(oracle, watch, *options):
    """What the comparison finds wrong, without its print-out."""
    with contextlib.redirect_stdout(io.StringIO()):
        return compare.compare(oracle, watch, compare.ask(["-", "-", "--min-samples", "1000", *options]))


class Compare(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.truth = run(lambda: Oracle([LOCAL])).samples
        cls.monitor = run(lambda: Slotted([LOCAL], noise_ns=1000))
        cls.watch = cls.monitor.samples

    def test_the_second_reading_passes(self):
        self.assertEqual(fails(self.truth, self.watch, "--skipped", str(self.monitor.skipped)), [])
        self.assertGreater(self.monitor.skipped, 0, "the traffic must fill slots, too")
        self.assertEqual({s["echo"] for s in self.watch}, {"prompt", "lone", "data"})

    def test_every_broken_rule_fails(self):
        for rule in MUTATIONS:
            with self.subTest(rule):
                broken = run(lambda: Oracle([LOCAL], rule)).samples
                self.assertNotEqual(fails(broken, self.watch, "--skipped", str(self.monitor.skipped)), [])

    def reject(self, watch, word, *options):
        found = fails(self.truth, watch, *options)
        self.assertTrue(any(word in reason for reason in found), found)

    def test_a_sample_twice_is_false(self):
        self.reject(self.watch + [dict(self.watch[9])], "1 false")

    def test_a_wrong_id_is_false(self):
        self.reject([dict(self.watch[0], id=7)] + self.watch[1:], "1 false")

    def test_a_wrong_leg_is_false(self):
        self.reject([dict(self.watch[0], leg="local" if self.watch[0]["leg"] == "remote" else "remote")] + self.watch[1:], "1 false")

    def test_raced_packets_are_excused_in_their_number_only(self):
        false = [dict(s, id=7) for s in self.watch[:2]]
        one = ("--raced", str(0.5 / len(self.watch)))
        self.reject(false + self.watch[2:], "1 false", *one)
        self.assertEqual(fails(self.truth, false[:1] + self.watch[1:], *one), [])

    def test_lone_called_prompt_is_false(self):
        spot = next(i for i, s in enumerate(self.watch) if s["echo"] == "lone")
        self.reject(self.watch[:spot] + [dict(self.watch[spot], echo="prompt")] + self.watch[spot + 1:], "1 false")

    def test_classes_that_turn_with_the_clock_are_excused_in_their_number_only(self):
        spots = [i for i, s in enumerate(self.watch) if s["echo"] == "lone"][:2]
        prompt = lambda spots: [dict(s, echo="prompt") if i in spots else s for i, s in enumerate(self.watch)]
        truth = [dict(o, margin_ns=900_000) if o["echo"] == "lone" else o for o in self.truth]
        one = ("--late", str(0.5 / len(self.watch)))
        self.assertEqual(fails(truth, prompt(spots[:1]), *one), [])
        self.assertTrue(any("1 false" in reason for reason in fails(truth, prompt(spots), *one)))
        short = [dict(o, margin_ns=None) if o["echo"] == "lone" else o for o in self.truth]
        self.assertTrue(any("1 false" in reason for reason in fails(short, prompt(spots[:1]), *one)))

    def test_identities_do_not_depend_on_the_clock(self):
        sure = lambda watch, word: self.reject(watch, word, "--identities", "--coverage", "1", "--min-samples", "500")
        late = [dict(s, rtt_ns=s["rtt_ns"] + 50_000_000) for s in self.watch]
        self.assertEqual(fails(self.truth, late, "--identities", "--coverage", "1", "--min-samples", "500"), [])
        sure([dict(late[0], id=7)] + late[1:], "1 false")
        sure(late + [dict(late[0])], "1 false")
        spot = next(i for i, s in enumerate(late) if s["echo"] == "data")
        sure(late[:spot] + [dict(late[spot], echo="lone")] + late[spot + 1:], "echo lone, should be data")
        there = next(o for o in self.truth if o["allowed"] and o["alone"])
        sure([s for s in late if any(s[k] != there[k] for k in compare.KEY)], "coverage")

    def test_two_percent_missing_is_too_much(self):
        self.reject([s for i, s in enumerate(self.watch) if i % 50], "coverage")

    def test_more_missing_than_skipped(self):
        self.reject(self.watch, "were skipped", "--skipped", "0")

    def test_a_bias_shows_in_the_mean(self):
        self.reject([dict(s, rtt_ns=s["rtt_ns"] + 4000) for s in self.watch], "mean difference")

    def test_a_heavy_tail_shows(self):
        self.reject([dict(s, rtt_ns=s["rtt_ns"] + (0 if i % 40 else 300_000)) for i, s in enumerate(self.watch)], "are off by")

    def test_a_biased_choice_shows(self):
        flow = dict(src=LOCAL, sport=1, dst=REMOTE, dport=2)
        full = [dict(flow, id=n, rtt_ns=(1 + n % 10) * MS) for n in range(2000)]
        fair = [s for s in full if s["id"] // 10 % 3 == 0]
        self.assertEqual(compare.biased(full, fair), [])
        short = [s for s in full if s["id"] % 10 < 8]
        self.assertIn("more than 5 %", compare.biased(full, short)[0])

    def test_many_on_the_border_are_too_many(self):
        other = {"prompt": "lone", "lone": "prompt"}
        near = [dict(o, margin_ns=5) for o in self.truth]
        self.assertTrue(any("for the other" in reason for reason in fails(near, [dict(s, echo=other.get(s["echo"], "data")) for s in self.watch])))

    def test_too_little_traffic_proves_nothing(self):
        self.reject(self.watch, "proves nothing", "--min-samples", "10000000")

    def test_nothing_at_all_fails(self):
        self.reject([], "nothing to compare")
        self.assertNotEqual(fails([], []), [])

    def test_buckets_are_those_of_schema_3(self):
        self.assertEqual(compare.bucket(10**9), 0)
        self.assertEqual(compare.bucket(10**9 + 1), 1)
        self.assertEqual(compare.bucket(5 * 10**8), -8)


if __name__ == "__main__":
    unittest.main()
