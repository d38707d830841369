#!/usr/bin/env python3
"""Which RTT samples a capture should give by TCP timestamps (RFC 7323), decided with no limit on memory.

oracle.py --local ADDR... [--mutate RULE] < fields.tsv > oracle.jsonl     fields.tsv: `tshark -T fields` of FIELDS
oracle.py --fields                                                         prints the -e options for tshark
Each line: src, sport, dst, dport of the stamped packet, id (TSval), stamp_ns, time_ns (of the echo), rtt_ns, leg, echo,
allowed (a matcher with SLOTS slots had one free and no reason to wait), margin_ns (how far the class is from turning) and
alone (no other stamp of its direction was outstanding: there is no reason at all to go without this one).
"""
import argparse, json, sys

FIELDS = ("frame.time_epoch ip.src ip.dst ipv6.src ipv6.dst tcp.srcport tcp.dstport tcp.flags tcp.seq_raw tcp.ack_raw "
          "tcp.len tcp.hdr_len tcp.options.timestamp.tsval tcp.options.timestamp.tsecr tcp.options.mss_val "
          "tcp.options.sack_le").split()
FIN, SYN, RST, ACK = 1, 2, 4, 16
SLOTS = 3              # per direction of a flow, in what is compared with us
VOID_NS = 64 << 32     # a stamp older than its 32-bit time of 64 ns units is void
OLD_NS = 240 * 10**9   # 2 MSL (RFC 9293 3.4.2): after that no segment from before is about, whatever its TSval seems to be
EARLY = 2**18          # an answer to what is still to pass is believed this near to both directions' numbers (as RFC 5961 5)
LARGEST = 2**30        # largest window (RFC 7323 2.3): no number is further behind what has passed
UNSEEN = 2**20         # and this far ahead: lost before it came here
EARLY_TICKS = 2**28    # and this near to the newest TSval: no clock ticks more often in OLD_NS (RFC 7323 5.4)
MUTATIONS = ("any-tsval", "pure-ack", "overwrite-slots", "forget-match")


def newer(a, b):
    """a is strictly newer than b: 0 < a - b < 2^31 (RFC 7323 5.2); anything is newer than nothing."""
    return b is None or 0 < (a - b) % 2**32 < 2**31


def parse(line):
    """A line of tshark's fields as a dict; a field that tshark left empty is None."""
    (t, s4, d4, s6, d6, sp, dp, flags, seq, ack, length, head, val, ecr, mss, sack) = line.rstrip("\n").split("\t")
    num = lambda text: int(text) if text else None
    sec, _, frac = t.partition(".")
    return dict(t=int(sec) * 10**9 + int(frac.ljust(9, "0")[:9]), src=(s4 or s6, int(sp)), dst=(d4 or d6, int(dp)),
                flags=int(flags, 16), seq=int(seq), ack=int(ack or 0), len=int(length), opts=int(head) - 20,
                val=num(val), ecr=num(ecr), mss=num(mss), sack=bool(sack), gso=None)


class Way:
    """One direction of a flow."""

    def __init__(self):
        self.val = self.ecr = self.mss = None   # newest TSval sent, newest TSecr sent, MSS of its SYN
        self.val_t = self.ecr_t = 0             # when those two passed last
        self.high = self.next = None            # end of all that was sent, and before the packet at hand
        self.early = False                      # ecr was ahead of what had passed
        self.answered = None                    # what its SYN-ACK acknowledges
        self.stamps = {}                        # TSval -> stamp, in the order of sending
        self.hold = self.rtt = 0                # a limited matcher may wait until then; the last RTT of this direction


class Oracle:
    def __init__(self, local, mutate=None):
        self.local, self.mutate, self.flows, self.samples = local, mutate, {}, []   # local: addresses of the pod

    def packet(self, p):
        """Takes the next packet of the capture."""
        key = tuple(sorted((p["src"], p["dst"])))
        if not self.fits(p, self.flows.get(key)):
            return                              # forged, or of another connection: RFC 9293 3.10.7.4
        if p["flags"] & RST:                    # ends the flow; neither stamps nor answers
            self.flows.pop(key, None)
            return
        if p["flags"] & (SYN | ACK) == SYN and not self.is_late(p, self.flows.get(key)):
            self.flows.pop(key, None)           # a flow begins, perhaps on the ports of a dead one
        ways = self.flows.setdefault(key, {p["src"]: Way(), p["dst"]: Way()})
        mine, other = ways[p["src"]], ways[p["dst"]]
        if p["flags"] & SYN:
            mine.mss = p["mss"]
            mine.answered = p["ack"] if p["flags"] & ACK else None
        size = p["len"] + bool(p["flags"] & SYN) + bool(p["flags"] & FIN)
        mine.next = mine.high
        if mine.high is None or size and 0 < (p["seq"] + size - mine.high) % 2**32 < 2**31:
            mine.high = (p["seq"] + size) % 2**32
        if p["val"] is None:
            self.complete(p, mine)
            return
        if p["flags"] & ACK and not p["flags"] & SYN:
            self.answer(p, mine, other)
        self.stamp(p, mine, other)
        self.complete(p, mine)

    @staticmethod
    def fits(p, ways):
        """Whether the flow's ends can have sent the packet's numbers; what nothing is known of fits. A SYN is judged elsewhere."""
        if not ways or p["flags"] & SYN or None in (high := [ways[end].high for end in (p["src"], p["dst"])]):
            return True
        late = LARGEST if p["len"] or p["flags"] & FIN else EARLY
        ahead = EARLY if p["flags"] & RST else UNSEEN
        near = lambda number, known, behind, ahead: (number - known + behind) % 2**32 <= behind + ahead
        return near(p["seq"], high[0], late, ahead) and (not p["flags"] & ACK or near(p["ack"], high[1], LARGEST, UNSEEN))

    @staticmethod
    def is_late(p, ways):
        """A SYN that passes behind the SYN-ACK that answers it: two CPUs, two queues of a capture."""
        return bool(ways) and ways[p["src"]].high is None and ways[p["dst"]].answered == (p["seq"] + 1) % 2**32

    @staticmethod
    def is_early(p, mine, other):
        """An echo that passed before what it echoes, from one who knows both directions' numbers, and the clock."""
        if mine.next is None or p["len"] and 0 < (p["seq"] - mine.next) % 2**32 < 2**31:
            return False                        # it told its number itself: the first one, or beyond a hole
        near = (mine.high - p["seq"] + EARLY) % 2**32 <= 2 * EARLY
        return near and (p["ack"] - other.high) % 2**32 <= EARLY and (p["ecr"] - other.val) % 2**32 <= EARLY_TICKS

    def answer(self, p, mine, other):
        """TSecr: the first packet that names a TSval is its echo and voids what is older."""
        ecr, last = p["ecr"], mine.ecr
        if other.val is None:
            return
        if last is not None and newer(last, other.val):           # of what never came
            last = None
        if newer(ecr, other.val):               # never sent, or still to pass: what it covers was answered, nobody knows when
            if self.is_early(p, mine, other) and self.mutate != "forget-match":
                other.stamps, mine.ecr, mine.ecr_t, mine.early = {}, ecr, p["t"], True
            return
        news = newer(ecr, last) or ecr != last and p["t"] - mine.ecr_t > OLD_NS
        if ecr == last:
            mine.ecr_t = p["t"]
        if not news and self.mutate != "forget-match":
            return
        mine.ecr, mine.ecr_t, mine.early = ecr, p["t"], False
        hit = other.stamps.pop(ecr, None)
        other.stamps = {v: s for v, s in other.stamps.items() if newer(v, ecr)}
        if hit and p["t"] - hit["t"] < VOID_NS:
            self.sample(p, ecr, hit, other)
        if self.mutate == "forget-match" and other.val == ecr:
            other.val = (ecr - 1) % 2**32

    def sample(self, p, val, hit, way):
        rtt = way.rtt = p["t"] - hit["t"]
        echo, margin = self.echo(p, hit, rtt)
        self.samples.append(dict(
            src=p["dst"][0], sport=p["dst"][1], dst=p["src"][0], dport=p["src"][1], id=val, stamp_ns=hit["t"],
            time_ns=p["t"], rtt_ns=rtt, leg="remote" if p["dst"][0] in self.local else "local", echo=echo,
            allowed=hit["allowed"], margin_ns=margin, alone=hit["alone"]))

    def echo(self, p, hit, rtt):
        """prompt, lone or data; and by how many ns it missed being the other of prompt and lone."""
        if p["len"] or p["flags"] & FIN:
            return "data", None
        if not hit["full"] or (p["ack"] - hit["seq"]) % 2**32 >= 2**31 or hit["done"] is None \
                or (p["ack"] - hit["seq"]) % 2**32 < 2 * hit["full"]:
            return "lone", None
        spare = max(10_000, rtt / 20) - (hit["done"] - hit["t"])
        return ("prompt" if spare >= 0 else "lone"), abs(spare)

    def stamp(self, p, mine, other):
        """TSval: stamped at its first occurrence, if that has payload and the flow's start or an edge was seen."""
        val, edge = p["val"], mine.val is not None
        fresh = newer(val, mine.val) or val != mine.val and p["t"] - mine.val_t > OLD_NS
        if fresh:
            mine.val = val
        if val == mine.val:
            mine.val_t = p["t"]
        if other.early and other.ecr_t + OLD_NS >= p["t"] and (other.ecr - val) % 2**32 <= EARLY_TICKS:
            fresh = False                       # answered before it passed
        payload = p["len"] > 0 or self.mutate == "pure-ack"
        if not (fresh and edge or self.mutate == "any-tsval") or not payload or p["flags"] & SYN:
            return
        for v in [v for v, s in mine.stamps.items() if p["t"] - s["t"] >= VOID_NS]:
            del mine.stamps[v]
        free = len(mine.stamps) < SLOTS
        if not free and self.mutate == "overwrite-slots":
            mine.stamps.pop(next(iter(mine.stamps)))
        if not free:                            # whoever is full may spread its stamps over a round trip from here
            mine.hold = p["t"] + 2 * max(mine.rtt, p["t"] - next(iter(mine.stamps.values()), p)["t"])
        known = [w.mss for w in (mine, other) if w.mss]
        full = p["gso"] or known and min(known) - p["opts"]
        mine.stamps[p["val"]] = dict(t=p["t"], seq=p["seq"], full=full, done=None, allowed=free and p["t"] > mine.hold,
                                     alone=not mine.stamps)

    def complete(self, p, way):
        """Notes for every stamp when the segment passed that completes its second full one."""
        for s in way.stamps.values() if p["len"] else ():
            if s["done"] is None and s["full"] and (p["seq"] + p["len"] - s["seq"] - 2 * s["full"]) % 2**32 < 2**31:
                s["done"] = p["t"]


def options(doc):
    """The command line that all methods share."""
    ask = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--local", nargs="+", required=True, help="addresses of the pod whose host veth was captured")
    ask.add_argument("--by-time", action="store_true", help="packets in the order of their times, as lpm replay takes them: two"
                     " CPUs write into one capture, each a moment after it took the time")
    return ask


def samples(method, lines=sys.stdin, by_time=False):
    """What a method finds in the lines of tshark."""
    rows = map(parse, lines)
    for row in sorted(rows, key=lambda row: row["t"]) if by_time else rows:
        method.packet(row)
    return method.samples


def write(found):
    """Samples as JSON lines."""
    for s in found:
        print(json.dumps(s))


def main():
    if sys.argv[1:] == ["--fields"]:            # the -e options for tshark
        print(*("-e " + field for field in FIELDS))
        return
    ask = options(__doc__)
    ask.add_argument("--mutate", choices=MUTATIONS, help="break one rule on purpose")
    args = ask.parse_args()
    write(samples(Oracle(args.local, args.mutate), by_time=args.by_time))


if __name__ == "__main__":
    main()
