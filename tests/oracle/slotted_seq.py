#!/usr/bin/env python3
"""A second reading of seq.py's rules with three slots per direction: stands in for the monitor where none can run.

slotted_seq.py [--forced] [--break RULE] ADDR... < fields.tsv > watch.jsonl    ADDR: addresses of the pod

Written apart from seq.py, as slotted.py is from oracle.py. A rule broken on purpose shows what a comparison finds.
"""
import argparse, json, random, sys

RULES = ("copy", "copy-stamped", "duplicate", "sack", "hole", "padding", "keep-alive", "beyond", "youngest", "join", "prompt")
HALF, FULL = 1 << 31, 1 << 32


def ahead(a, b):
    """How far a lies beyond b; negative: before."""
    return (a - b + HALF) % FULL - HALF


class Slotted:
    """Takes the rows of oracle.parse; `samples` are as `lpm watch --format json` prints them."""

    def __init__(self, local, noise_ns=0, seed=1, forced=False, broken=None):
        self.local, self.noise, self.random = local, noise_ns, random.Random(seed)
        self.forced, self.broken = forced, broken
        self.next, self.acked, self.slots, self.mss, self.ts = {}, {}, {}, {}, set()
        self.samples, self.skipped = [], 0

    def packet(self, p):
        out, back, flags = (p["src"], p["dst"]), (p["dst"], p["src"]), p["flags"]
        if flags & 4 or flags & 0x12 == 2:
            for way in (out, back):
                for table in (self.next, self.acked, self.slots, self.mss):
                    table.pop(way, None)
                self.ts.discard(way)
            if flags & 4:
                return
        if flags & 2:
            if p["mss"]:
                self.mss[out] = p["mss"]
            if out not in self.next:
                self.next[out] = (p["seq"] + p["len"] + 1) % FULL
            if flags & 16:
                self.acked.setdefault(out, p["ack"])
            return
        if p["val"] is not None and not self.forced:
            self.ts |= {out, back}
        if out in self.ts:
            self.slots.pop(out, None)
            self.slots.pop(back, None)
            return
        if flags & 16:
            self.ack(p, out, back)
        self.data(p, out, back)

    def trouble(self, p, out, back):
        """Does this acknowledgement tell of a hole?"""
        if p["sack"] and self.broken != "sack":
            return True
        length = p["len"] + (6 if self.broken == "padding" and not p["len"] else 0)
        return (self.broken != "duplicate" and not length and not p["flags"] & 1 and self.acked.get(out) == p["ack"]
                and ahead(self.next.get(back, p["ack"]), p["ack"]) > 0)

    def ack(self, p, out, back):
        before = self.acked.get(out)
        if ahead(p["ack"], self.next.get(back, p["ack"])) > 0:
            return                              # of what was never sent
        if self.trouble(p, out, back):
            self.slots[back] = []
        news = before is None or ahead(p["ack"], before) > 0
        if news:
            self.acked[out] = p["ack"]
            least = 1 if self.broken == "beyond" else 0
            hit = [s for s in self.slots.get(back, ()) if ahead(p["ack"], s["end"]) >= least]
            self.slots[back] = [s for s in self.slots.get(back, ()) if s not in hit]
            hit = [s for s in hit if p["t"] - s["t"] < 64 << 32]
            if hit:
                self.emit(p, hit[-1 if self.broken == "youngest" else 0], before, back)

    def emit(self, p, slot, before, back):
        kind, rtt = "lone", p["t"] - slot["t"]
        if p["len"] or p["flags"] & 1:
            kind = "data"
        elif slot["full"] and slot["second"] is not None:
            start = slot["seq"]
            if self.broken != "prompt" and before is not None and ahead(before, start) > 0:
                start = before
            if ahead(p["ack"], start) >= 2 * slot["full"] and slot["second"] - slot["t"] <= max(10000, rtt // 20):
                kind = "prompt"
        (src, sport), (dst, dport) = back
        shown = max(0, rtt + round(self.random.gauss(0, self.noise))) // 64 * 64
        self.samples.append(dict(schema=1, interface="va", vantage="pod", src=src, sport=sport, dst=dst, dport=dport,
                                 rtt_ns=shown, leg="remote" if src in self.local else "local", echo=kind, method="seq",
                                 id=slot["end"]))

    def data(self, p, out, back):
        size = p["len"] + (p["flags"] & 1)
        if self.broken == "padding" and not size:
            size = 6
        if not size:
            self.next.setdefault(out, p["seq"])
            return
        end, known = (p["seq"] + size) % FULL, self.next.get(out)
        distance = None if known is None else ahead(p["seq"], known)
        fresh = distance == 0 or distance is None and self.broken == "join" or distance is not None and distance > 0 and self.broken == "hole"
        if distance is None or ahead(end, known) > 0:
            self.next[out] = end
        probe = distance == -1 and p["len"] <= 1 and not p["flags"] & 1 and (
            self.broken == "keep-alive" or ahead(self.acked.get(back, p["seq"]), known) >= 0)
        if distance and not fresh and not probe:
            if distance > 0 or self.broken not in ("copy", "copy-stamped"):
                self.slots[out] = []
            fresh = self.broken == "copy-stamped"
        if fresh and p["len"]:
            self.store(p, end, out, back)
        for s in self.slots.get(out, ()):
            if s["second"] is None and s["full"] and ahead(end, s["seq"]) >= 2 * s["full"]:
                s["second"] = p["t"]

    def store(self, p, end, out, back):
        slots = self.slots.setdefault(out, [])
        slots[:] = [s for s in slots if p["t"] - s["t"] < 64 << 32]
        if self.broken == "copy-stamped":
            slots[:] = [s for s in slots if s["end"] != end]
        if len(slots) == 3:
            self.skipped += 1
            return
        sizes = [self.mss[k] for k in (out, back) if k in self.mss]
        full = p["gso"] or (min(sizes) - p["opts"] if sizes else 0)
        slots.append(dict(t=p["t"], seq=p["seq"], end=end, full=full, second=None))


def main():
    from oracle import parse  # reading tshark's columns is no rule of the method

    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("local", nargs="+")
    ask.add_argument("--forced", action="store_true")
    ask.add_argument("--break", dest="broken", choices=RULES)
    args = ask.parse_args()
    matcher = Slotted(args.local, forced=args.forced, broken=args.broken)
    for line in sys.stdin:
        matcher.packet(parse(line))
    for sample in matcher.samples:
        print(json.dumps(sample))
    print(matcher.skipped, file=sys.stderr)


if __name__ == "__main__":
    main()
