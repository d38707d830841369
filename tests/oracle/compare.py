#!/usr/bin/env python3
"""Holds the samples of `lpm watch --format json` against those of oracle.py, both of the same hook and time.

compare.py oracle.jsonl watch.jsonl [--skipped N] [bounds]

Prints coverage, false samples, agreement of the echo class, and how the RTTs differ. Ends with status 1 and a line
`FAIL: ...` per bound that does not hold. All times are in microseconds.
"""
import argparse, collections, functools, json, math, statistics, sys

import crossing
from oracle import Oracle
from seq import Seq

KEY = ("src", "sport", "dst", "dport", "id")
LATE = "by the capture's clock"     # a class that turns with when, or in which order, two packets passed


def ask(argv=None):
    """Command line; the defaults are the bounds a release must hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("oracle", help="output of oracle.py")
    parser.add_argument("watch", help="output of lpm watch --format json")
    parser.add_argument("--method", default="ts", choices=("ts", "seq", "handshake"), help="whose samples (%(default)s)")
    parser.add_argument("--port", type=int, help="only flows with this port at either end")
    parser.add_argument("--skipped", type=int, default=None, help="stamps that the monitor says it skipped for want of a slot")
    parser.add_argument("--min-samples", type=int, default=10_000, help="the oracle must have found as many (%(default)s)")
    parser.add_argument("--coverage", type=float, default=0.99, help="share of the allowed samples that must be there (%(default)s)")
    parser.add_argument("--mean", type=float, default=3.0, help="bound of the mean difference, the furthest one in 1,000 left out (%(default)s)")
    parser.add_argument("--p99", type=float, default=200.0, help="bound of 99 %% of the differences (%(default)s)")
    parser.add_argument("--worst", type=float, default=20_000.0, help="a sample further off than this is false (%(default)s)")
    parser.add_argument("--late", type=float, default=0.0, help="share of samples (at least one) whose class may turn because a CPU was taken away between hook and capture (%(default)s)")
    parser.add_argument("--turn", type=float, default=20.0, help="a prompt or lone this near to the other may be either (%(default)s)")
    parser.add_argument("--lone-for-prompt", type=float, default=0.01, help="share of prompts that may be called lone (%(default)s)")
    parser.add_argument("--border", type=float, default=0.1, help="share of a leg's pure ACKs that may lie on the border (%(default)s)")
    parser.add_argument("--crossed", type=float, default=0.0, help="share of samples (rounded up) without a stamp in the capture that is excused, if"
                        " one packet that changes places with its neighbours explains them: see crossing.py (%(default)s)")
    parser.add_argument("--raced", type=float, default=0.0, help="share of such samples (rounded up) that is excused though no order explains them:"
                        " two CPUs are in the matcher at once (%(default)s)")
    parser.add_argument("--fields", help="what the oracle read, for --crossed")
    parser.add_argument("--local", nargs="+", default=[], help="as for the oracle, for --crossed")
    parser.add_argument("--forced", action="store_true", help="likewise")
    parser.add_argument("--identities", action="store_true", help="judge only which samples there are, their leg and what of the class no"
                        " clock decides: for emulated machines")
    parser.add_argument("--unbiased", action="store_true", help="also, per flow of 1,000 samples: mean within 5 %%, percentiles in the bucket of the full set")
    return parser.parse_args(argv)


def read(path, port=None, method="ts"):
    """The JSON lines of a file that are samples of a method, all or those of one port."""
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.startswith("{")]
    return [row for row in rows if row.get("method", "ts") == method and port in (None, row["sport"], row["dport"])]


def groups(oracle):
    """Lists of what may be the one sample of an echo, the oldest first; by timestamps there is never a choice."""
    found = {}
    for n, o in enumerate(oracle):
        found.setdefault(("group", o["group"]) if "group" in o else n, []).append(o)
    return list(found.values())


def pair(oracle, watch):
    """Pairs both by flow and id, in order of time: (pairs, missing, false); missing are groups without a sample."""
    open_, pairs, false, taken = collections.defaultdict(collections.deque), [], [], set()
    for o in oracle:
        open_[tuple(o[k] for k in KEY)].append(o)
    for w in watch:
        waiting = open_[tuple(w[k] for k in KEY)]
        if not waiting:
            false.append((w, "no such stamp or echo, or the second of one"))
        elif waiting[0].get("group", -1) in taken:
            false.append((w, "the second sample of one ACK"))
        else:
            o = waiting.popleft()
            pairs.append((o, w))
            taken |= {o["group"]} if "group" in o else set()
    met = {id(o) for o, _ in pairs}
    return pairs, [group for group in groups(oracle) if not any(id(o) in met for o in group)], false


def younger(oracle, pairs):
    """Samples of a stamp that is younger than one of the same ACK that a slot was free for."""
    met, count = {id(o) for o, _ in pairs}, 0
    for group in groups(oracle):
        first = next((n for n, o in enumerate(group) if o["allowed"]), len(group))
        count += any(id(o) in met for o in group[first + 1:])
    return count


def judge(pairs, false, args):
    """Adds pairs that disagree to `false`; returns (borderline classes by leg, prompts called lone)."""
    border, shy = collections.Counter(), 0
    for o, w in pairs:
        if o["leg"] != w["leg"]:
            false.append((w, f"leg {w['leg']}, should be {o['leg']}"))
        if args.identities:
            clocked = o["margin_ns"] is not None and w["echo"] != "data"
            if o["echo"] != w["echo"] and not clocked:
                false.append((w, f"echo {w['echo']}, should be {o['echo']}"))
            continue
        if abs(w["rtt_ns"] - o["rtt_ns"]) > args.worst * 1000:
            false.append((w, f"rtt should be {o['rtt_ns']} ns"))
        if o["echo"] != w["echo"]:
            # Where the clocks of hook and capture differ much, they do for the class, too.
            near = args.turn * 1000 + abs(w["rtt_ns"] - o["rtt_ns"])
            turned = o["margin_ns"] is not None and o["margin_ns"] <= near and w["echo"] != "data"
            if turned or o.get("crossed"):
                border[o["leg"]] += 1
            elif w["echo"] == "prompt" and o["margin_ns"] is not None or "data" in (w["echo"], o["echo"]):
                false.append((w, f"{LATE} echo {w['echo']} should be {o['echo']}"))
            elif (o["echo"], w["echo"]) == ("prompt", "lone"):
                shy += 1
            else:
                false.append((w, f"echo {w['echo']}, should be {o['echo']}"))
    return border, shy


def swapped(false, count, args):
    """Those of the samples, if they are few, that an order of packets next to the capture's explains."""
    if not args.fields or args.method == "handshake" or not 0 < len(false) <= math.ceil(args.crossed * count):
        return []
    with open(args.fields, encoding="utf-8") as lines:
        flows = crossing.flows(lines)
    make = functools.partial(*((Oracle, args.local) if args.method == "ts" else (Seq, args.local, args.forced)))
    rows = lambda w: flows[frozenset(((w["src"], w["sport"]), (w["dst"], w["dport"])))]
    return [f for f in false if crossing.explains(f[0], rows(f[0]), args.method, make, "echo " in f[1])]


def at(values, share):
    """The value that `share` of the sorted values do not exceed."""
    return values[max(0, math.ceil(share * len(values)) - 1)]


def bucket(ns):
    """Index of the native histogram bucket of schema 3 (bounds 2^(k/8) s, upper-inclusive)."""
    return math.ceil(8 * math.log2(ns / 1e9)) if ns > 0 else None


SHARES = (0.5, 0.9, 0.99)


def spread(oracle, watch):
    """Prints each leg's distribution in both sets."""
    for leg in ("remote", "local"):
        full, got = (sorted(s["rtt_ns"] for s in part if s["leg"] == leg) for part in (oracle, watch))
        if full and got:
            line = "  ".join(f"p{100 * q:g} {at(got, q) / 1e3:.1f} of {at(full, q) / 1e3:.1f}" for q in SHARES)
            mean, truth = statistics.fmean(got) / 1e3, statistics.fmean(full) / 1e3
            print(f"{leg:6}: {len(got)} of {len(full)} samples, mean {mean:.1f} of {truth:.1f} us, {line}")


def biased(oracle, watch, least=1000):
    """What the slot policy distorts: per direction of a flow, for skipping is done there."""
    full, got, wrong = collections.defaultdict(list), collections.defaultdict(list), []
    for part, into in ((oracle, full), (watch, got)):
        for s in part:
            into[tuple(s[k] for k in KEY[:-1])].append(s["rtt_ns"])
    for flow, rtts in full.items():
        if len(rtts) < least or not got[flow]:
            continue
        a, b = sorted(got[flow]), sorted(rtts)
        mean, truth = statistics.fmean(a), statistics.fmean(b)
        if abs(mean - truth) > 0.05 * truth:
            wrong.append(f"{flow}: mean {mean / 1e3:.1f} us is more than 5 % from {truth / 1e3:.1f} us")
        wrong += [f"{flow}: p{100 * q:g} lies in another bucket than the truth" for q in SHARES
                  if bucket(at(a, q)) != bucket(at(b, q))]
    return wrong


def compare(oracle, watch, args):
    """Prints the figures and returns the list of bounds that do not hold."""
    if args.identities:                         # how stamps are spread over a round trip hangs on the clock, too
        oracle = [dict(o, allowed=o["allowed"] and o.get("alone", True)) for o in oracle]
    pairs, missing, false = pair(oracle, watch)
    border, shy = judge(pairs, false, args)
    crossed = swapped([f for f in false if f[1].startswith(("no such", "the second", "rtt")) or "echo " in f[1]], len(watch), args)
    false = [f for f in false if f not in crossed]
    raced = [f for f in false if f[1].startswith(("no such", "the second"))][:math.ceil(args.raced * len(watch))]
    for w, why in raced:
        print("   raced:", why, json.dumps(w))
    false = [f for f in false if f not in raced]
    late = [f for f in false if f[1].startswith(LATE)][:math.ceil(args.late * len(watch))]
    false = [f for f in false if f not in late]
    fails = []
    echoes = groups(oracle)
    lost = sum(any(o["allowed"] for o in group) for group in missing)
    allowed = sum(any(o["allowed"] for o in group) for group in echoes)
    young = younger(oracle, pairs)
    covered = 1 - lost / allowed if allowed else 0.0
    print(f"oracle : {len(echoes)} samples, {allowed} of them with a slot free; watch: {len(watch)}")
    print(f"allowed: {100 * covered:.3f} % there, {lost} missing; of all: {len(missing)} missing,"
          f" {'unknown' if args.skipped is None else args.skipped} skipped;"
          f" {young} younger than they should be")
    enough = allowed if args.identities else len(echoes)
    if enough < args.min_samples:
        fails.append(f"{enough} samples are less than {args.min_samples}: the run proves nothing")
    if covered < args.coverage:
        fails.append(f"coverage {100 * covered:.3f} % is under {100 * args.coverage:g} %")
    if args.skipped is not None and len(missing) > args.skipped + 0.01 * len(echoes):
        fails.append(f"{len(missing)} samples are missing, only {args.skipped} were skipped by the slot policy")
    if young > (1 - args.coverage) * allowed:
        fails.append(f"{young} samples are of a younger stamp than they should be")
    for o in [o for group in missing for o in group if o["allowed"]][:5]:
        print("    missing", json.dumps(o))
    print(f"false  : {len(false)}, {len(crossed)} excused as crossed between hook and capture, {len(raced)} as raced, {len(late)} as preempted between hook and capture")
    for w, why in false[:5]:
        print("   ", why, json.dumps(w))
    if false:
        fails.append(f"{len(false)} false samples, the first: {false[0][1]}")
    agree = sum(o["echo"] == w["echo"] for o, w in pairs)
    prompts = sum(o["echo"] == "prompt" for o, _ in pairs)
    kinds = collections.Counter(o["echo"] for o, _ in pairs)
    print(f"class  : {agree} of {len(pairs)} agree ({dict(kinds)}), {border.total()} on the border, {shy} prompt called lone")
    for leg, count in border.items():
        pure = sum(o["leg"] == leg and o["echo"] != "data" for o, _ in pairs)
        if count > args.border * pure:
            fails.append(f"{count} of {pure} pure ACKs of the {leg} leg are prompt for one and lone for the other")
    if shy > args.lone_for_prompt * prompts:
        fails.append(f"{shy} of {prompts} prompt samples are called lone")
    if not pairs:
        return fails + ["nothing to compare: not one sample is in both"]
    off = sorted((w["rtt_ns"] - o["rtt_ns"]) / 1e3 for o, w in pairs)
    far = at(sorted(map(abs, off)), 0.99)
    kept = sorted(off, key=abs)[:len(off) - len(off) // 1000]     # a CPU may be taken away between hook and capture
    mean = statistics.fmean(kept)
    print(f"rtt off: mean {mean:+.3f} us, sigma {statistics.pstdev(off):.3f}, min {off[0]:+.3f}, p1 {at(off, 0.01):+.3f},"
          f" p50 {at(off, 0.5):+.3f}, p99 {at(off, 0.99):+.3f}, max {off[-1]:+.3f}")
    if args.identities:
        return fails
    if abs(mean) > args.mean:
        fails.append(f"mean difference {mean:+.3f} us is over {args.mean} us")
    if far > args.p99:
        fails.append(f"1 % of the RTTs are off by more than {far:.1f} us; the bound is {args.p99} us")
    oldest = [group[0] for group in echoes]
    spread(oldest, watch)
    return fails + (biased(oldest, watch) if args.unbiased else [])


def main():
    args = ask()
    fails = compare(*(read(path, args.port, args.method) for path in (args.oracle, args.watch)), args)
    for reason in fails:
        print("FAIL:", reason)
    sys.exit(bool(fails))


if __name__ == "__main__":
    main()
