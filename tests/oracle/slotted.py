#!/usr/bin/env python3
"""A second reading of the rules with three slots per direction: stands in for the monitor where none can run.

slotted.py ADDR... < fields.tsv > watch.jsonl    ADDR: addresses of the pod; the last line on stderr: skipped stamps

Written apart from oracle.py, sharing no rule with it, so that a slip in either one shows.
"""
import json, random, sys

PURE_MASK = 0x07  # FIN, SYN, RST
TICK = 64         # ns of a slot's time


def after(a, b):
    return ((a - b) & 0xFFFFFFFF) - 1 < 0x7FFFFFFF and a != b


class Slotted:
    """Takes the rows of oracle.parse; `samples` are as `lpm watch --format json` prints them."""

    def __init__(self, local, noise_ns=0, seed=1):
        self.local, self.noise, self.random = local, noise_ns, random.Random(seed)
        self.last, self.seen, self.slots, self.mss = {}, {}, {}, {}
        self.samples, self.skipped = [], 0

    def forget(self, key):
        for table in (self.last, self.seen, self.slots, self.mss):
            table.pop(key, None)

    def packet(self, p):
        out, back, flags = (p["src"], p["dst"]), (p["dst"], p["src"]), p["flags"]
        if flags & 4 or flags & 0x12 == 2:
            self.forget(out)
            self.forget(back)
            if flags & 4:
                return
        if flags & 2 and p["mss"]:
            self.mss[out] = p["mss"]
        if p["val"] is not None:
            if flags & 0x12 == 0x10:
                self.echo(p, out, back)
            self.value(p, out, back)
        if p["len"]:
            for slot in self.slots.get(out, ()):
                if slot[4] is None and slot[3] and (p["seq"] + p["len"] - slot[2] & 0xFFFFFFFF) >= 2 * slot[3] \
                        and not (p["seq"] + p["len"] - slot[2]) & 0x80000000:
                    slot[4] = p["t"]

    def echo(self, p, out, back):
        newest, ecr = self.last.get(back), p["ecr"]
        if newest is None or after(ecr, newest) or (newest - ecr) & 0x80000000:
            return
        if out in self.seen and not after(ecr, self.seen[out]):
            return
        self.seen[out] = ecr
        keep = []
        for slot in self.slots.get(back, []):
            if slot[0] == ecr:
                self.emit(p, slot, back)
            elif after(slot[0], ecr):
                keep.append(slot)
        self.slots[back] = keep

    def emit(self, p, slot, back):
        val, t, seq, full, done = slot
        rtt = p["t"] - t
        if rtt >= TICK << 32:
            return
        kind = "lone"
        if p["len"] or p["flags"] & 1:
            kind = "data"
        elif full and done is not None:
            reach = (p["ack"] - seq) & 0xFFFFFFFF
            if 2 * full <= reach < 0x80000000 and done - t <= max(10000, rtt // 20):
                kind = "prompt"
        (src, sport), (dst, dport) = back
        shown = max(0, rtt + round(self.random.gauss(0, self.noise))) // TICK * TICK
        self.samples.append(dict(schema=1, interface="va", vantage="pod", src=src, sport=sport, dst=dst, dport=dport,
                                 rtt_ns=shown, leg="remote" if src in self.local else "local", echo=kind, method="ts",
                                 id=val))

    def value(self, p, out, back):
        newest = self.last.get(out)
        if newest is not None and not after(p["val"], newest):
            return
        self.last[out] = p["val"]
        if newest is None or not p["len"] or p["flags"] & 2:
            return
        slots = self.slots.setdefault(out, [])
        slots[:] = [s for s in slots if p["t"] - s[1] < TICK << 32]
        if len(slots) == 3:
            self.skipped += 1
            return
        sizes = [self.mss[k] for k in (out, back) if k in self.mss]
        full = p["gso"] or (min(sizes) - p["opts"] if sizes else 0)
        slots.append([p["val"], p["t"], p["seq"], full, None])


def main():
    from oracle import parse  # reading tshark's columns is no rule of the method

    matcher = Slotted(sys.argv[1:])
    for line in sys.stdin:
        matcher.packet(parse(line))
    for sample in matcher.samples:
        print(json.dumps(sample))
    print(matcher.skipped, file=sys.stderr)


if __name__ == "__main__":
    main()
