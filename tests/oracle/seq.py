#!/usr/bin/env python3
"""Which RTT samples a capture should give by sequence numbers, decided with no limit on memory.

seq.py --local ADDR... [--forced] [--retransmissions] < fields.tsv > oracle.jsonl      fields.tsv as for oracle.py

Written from RFC 9293 (what an acknowledgement covers), RFC 6298 3 (Karn) and RFC 5681 2 (duplicate ACK). The lines are
those of oracle.py, `crossed` where its ACK may have changed places with another, and `group`: one ACK may cover several stamps. One of them makes the sample, the oldest that the
matcher had; whoever has few slots may have stamped a younger one, and its time is as true. So all that are covered are
listed, the oldest first.
"""
import collections, sys

import oracle
from oracle import ACK, FIN, RST, SLOTS, SYN, VOID_NS


EARLY = 2**18            # an acknowledgment of what is still to pass is believed this near to both directions' numbers
CROSS_NS = 20_000      # two packets of one direction this near to each other may pass hook and capture in different orders


def after(a, b):
    """Sequence number a lies beyond b: 0 < a - b < 2^31 (RFC 9293 3.4)."""
    return 0 < (a - b) % 2**32 < 2**31


class Way:
    """One direction of a flow."""

    def __init__(self):
        self.high = self.ack = self.mss = None  # end of all that was sent, newest acknowledgement sent, MSS of its SYN
        self.begun = False                      # whether its SYN or a segment with data was seen
        self.stamps = []                        # in the order of sending
        self.hold = self.rtt = 0                # as in oracle.py
        self.last = (0, [])                     # when its last packet passed, and the samples that it made


class Seq:
    def __init__(self, local, forced=False):
        self.local, self.forced, self.flows, self.samples = local, forced, {}, []   # local: addresses of the pod
        self.groups, self.stamped_flows = 0, set()                # stamped: those that carry timestamps
        self.plain_flows = set()                                  # those whose SYN has none
        self.retransmissions = collections.Counter()              # by direction, counted on every flow

    def packet(self, p):
        """Takes the next packet of the capture."""
        key = tuple(sorted((p["src"], p["dst"])))
        begins = p["flags"] & (SYN | ACK) == SYN and not self.is_late(p, self.flows.get(key))
        if p["flags"] & RST or begins:                            # ends, or begins anew
            self.flows.pop(key, None)
            self.stamped_flows.discard(key)
            self.plain_flows.discard(key)
            if p["flags"] & RST:
                return
        ways = self.flows.setdefault(key, {p["src"]: Way(), p["dst"]: Way()})
        mine, other = ways[p["src"]], ways[p["dst"]]
        if p["flags"] & SYN:
            self.synchronise(p, mine)
            if p["val"] is None:                                  # not agreed upon (RFC 7323 3.2): later ones say nothing
                self.plain_flows.add(key)
            for s in mine.stamps + other.stamps:                  # a SYN-ACK again: whoever begins anew here loses them
                s["allowed"] = False
            return
        if p["val"] is not None and key not in self.plain_flows:
            self.stamped_flows.add(key)
        before = len(self.samples)
        if p["flags"] & ACK:
            self.acknowledge(p, mine, other)
        self.crossed(p["t"], mine, self.samples[before:])
        self.send(p, mine, other)
        if key in self.stamped_flows and not self.forced:
            mine.stamps, other.stamps = [], []

    @staticmethod
    def is_late(p, ways):
        """A SYN that passes behind the SYN-ACK that answers it: two CPUs, two queues of a capture."""
        return bool(ways) and ways[p["src"]].high is None and ways[p["dst"]].ack == (p["seq"] + 1) % 2**32

    @staticmethod
    def crossed(t, way, made):
        """Marks the samples of ACKs that may change places: each would answer the other's stamps."""
        then, others = way.last
        if t - then <= CROSS_NS:
            for s in others + made:
                s["crossed"] = True
        way.last = (t, made)

    @staticmethod
    def synchronise(p, mine):
        """SYN and SYN-ACK belong to another method; they tell where the numbers begin."""
        end = (p["seq"] + 1 + p["len"]) % 2**32
        mine.mss, mine.begun = p["mss"] or mine.mss, True
        if mine.high is None or after(end, mine.high):
            mine.high = end
        if p["flags"] & ACK and (mine.ack is None or after(p["ack"], mine.ack)):
            mine.ack = p["ack"]

    def acknowledge(self, p, mine, other):
        """The other direction's stamps: cleared by a sign of trouble, else answered as far as the ACK reaches."""
        ack, last = p["ack"], mine.ack
        pure = not p["len"] and not p["flags"] & FIN
        outstanding = other.high is not None and after(other.high, ack)
        if other.high is None or after(ack, other.high):          # of what was not seen, or was never sent
            if self.is_early(p, mine, other):                     # or of what is still to pass: two CPUs, two queues
                other.stamps, mine.ack = [], ack
            return
        if last is not None and after(last, other.high):          # of what never came
            last = None
        if last is None or after(ack, last):
            mine.ack = ack
        if p["sack"] or pure and ack == last and outstanding:
            other.stamps = []
        elif last is None or after(ack, last):
            covered = [s for s in other.stamps if not after(s["end"], ack)]
            other.stamps = other.stamps[len(covered):]
            self.answer(p, covered, last, other)

    @staticmethod
    def is_early(p, mine, other):
        """An answer that passed before what it answers: whatever it covers was answered then, nobody knows when.

        Believed from one who knows both directions' numbers (RFC 5961 5 asks the ends for the like)."""
        if other.high is None or mine.high is None or (p["ack"] - other.high) % 2**32 > EARLY:
            return False
        size = p["len"] + bool(p["flags"] & FIN)
        if size and after(p["seq"], mine.high):                   # beyond a hole
            return False
        end = mine.high if not size or after(mine.high, (p["seq"] + size) % 2**32) else (p["seq"] + size) % 2**32
        return (end - p["seq"] + EARLY) % 2**32 <= 2 * EARLY or p["seq"] == mine.high

    def answer(self, p, covered, last, way):
        covered = [s for s in covered if p["t"] - s["t"] < VOID_NS]
        self.groups += 1
        for s in covered:
            rtt = p["t"] - s["t"]
            echo, margin = self.echo(p, s, rtt, last)
            self.samples.append(dict(
                src=p["dst"][0], sport=p["dst"][1], dst=p["src"][0], dport=p["src"][1], id=s["end"], stamp_ns=s["t"],
                time_ns=p["t"], rtt_ns=rtt, leg="remote" if p["dst"][0] in self.local else "local", echo=echo, method="seq",
                allowed=s["allowed"], margin_ns=margin, group=self.groups))
        if covered:
            way.rtt = p["t"] - covered[0]["t"]

    @staticmethod
    def echo(p, s, rtt, last):
        """prompt, lone or data; and by how many ns it missed being the other of prompt and lone.

        What an earlier ACK covered of the stamped packet already (half of a GSO packet) is no reason for this one."""
        if p["len"] or p["flags"] & FIN:
            return "data", None
        begin = last if last is not None and after(last, s["seq"]) else s["seq"]
        if not s["full"] or s["done"] is None or (p["ack"] - begin) % 2**32 < 2 * s["full"]:
            return "lone", None
        spare = max(10_000, rtt / 20) - (s["done"] - s["t"])
        return ("prompt" if spare >= 0 else "lone"), abs(spare)

    def send(self, p, mine, other):
        """What a segment does to the stamps of its own direction."""
        size = p["len"] + bool(p["flags"] & FIN)
        begin, end = p["seq"], (p["seq"] + size) % 2**32
        if not size:                                              # a pure ACK tells the next number
            if mine.high is None:
                mine.high = begin
            return
        if mine.high is None:                                     # joined mid-stream: it may be a copy
            mine.high = end
        elif begin == mine.high:
            mine.high = end
            self.stamp(p, end, mine, other)
        elif after(begin, mine.high):                             # a hole
            mine.high, mine.stamps = end, []
        elif not self.keep_alive(p, mine, other):
            self.retransmissions[p["src"], p["dst"]] += 1
            mine.stamps = []
            if after(end, mine.high):
                mine.high = end
        mine.begun = True
        self.complete(end, p["t"], mine)

    @staticmethod
    def keep_alive(p, mine, other):
        """RFC 9293 3.8.4: one below the next number, at most one byte, and nothing outstanding."""
        return (p["len"] <= 1 and not p["flags"] & FIN and (p["seq"] + 1) % 2**32 == mine.high
                and other.ack is not None and not after(mine.high, other.ack))

    @staticmethod
    def stamp(p, end, mine, other):
        if other.ack is not None and (other.ack - end) % 2**32 <= EARLY:
            return                                                # answered before it passed
        mine.stamps = [s for s in mine.stamps if p["t"] - s["t"] < VOID_NS]
        free = len(mine.stamps) < SLOTS
        if not free:                                              # as in oracle.py
            mine.hold = p["t"] + 2 * max(mine.rtt, p["t"] - mine.stamps[0]["t"])
        known = [w.mss for w in (mine, other) if w.mss]
        mine.stamps.append(dict(t=p["t"], seq=p["seq"], end=end, full=p["gso"] or known and min(known) - p["opts"], done=None,
                                allowed=free and p["t"] > mine.hold and mine.begun and p["len"] > 0))

    @staticmethod
    def complete(end, t, way):
        """Notes for every stamp when the segment passed that completes its second full one."""
        for s in way.stamps:
            if s["done"] is None and s["full"] and not after((s["seq"] + 2 * s["full"]) % 2**32, end):
                s["done"] = t


def main():
    ask = oracle.options(__doc__)
    ask.add_argument("--forced", action="store_true", help="flows with timestamps, too")
    ask.add_argument("--retransmissions", action="store_true", help="print their number instead")
    args = ask.parse_args()
    seq = Seq(args.local, args.forced)
    found = oracle.samples(seq, by_time=args.by_time)
    if args.retransmissions:
        print(seq.retransmissions.total())
    else:
        oracle.write(found)


if __name__ == "__main__":
    sys.exit(main())
