#!/usr/bin/env python3
"""Whether two methods agree on the same packets: agree.py ts.jsonl watch-ts.jsonl seq.jsonl watch-seq.jsonl [bounds]

Each pair is what a method should give at a hook and what the monitor gave; samples of the same echo are compared.
TSecr names the first segment of its tick, the sequence number the very one, so they may differ by one tick of the
sender's clock and by the hooks' own. Ends with status 1 and a line `FAIL: ...` per bound that does not hold.
"""
import argparse, statistics, sys

import compare


def ask(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("ts", "watch_ts", "seq", "watch_seq"):
        parser.add_argument(name)
    parser.add_argument("--port", type=int)
    parser.add_argument("--tick", type=float, default=1000.0, help="of the sender's clock, us (%(default)s)")
    parser.add_argument("--hooks", type=float, default=20.0, help="how far the clocks of two programs at a hook are apart, us (%(default)s)")
    parser.add_argument("--beyond", type=float, default=0.001, help="share that may differ by more (%(default)s)")
    parser.add_argument("--min-samples", type=int, default=1000)
    return parser.parse_args(argv)


def by_echo(oracle, watch):
    """What the monitor measured, by flow and time of the echo, with the time of the stamp."""
    pairs, _, _ = compare.pair(oracle, watch)
    return {tuple(o[k] for k in ("src", "sport", "dst", "dport", "time_ns")): (w["rtt_ns"], o["stamp_ns"]) for o, w in pairs}


def agree(ts, seq, args):
    """Prints the figures and returns the list of bounds that do not hold."""
    both = ts.keys() & seq.keys()
    if len(both) < args.min_samples:
        return [f"{len(both)} echoes with a sample of both methods are less than {args.min_samples}"]
    off = sorted((seq[k][0] - ts[k][0]) / 1e3 for k in both)
    same = [(seq[k][0] - ts[k][0]) / 1e3 for k in both if seq[k][1] == ts[k][1]]
    beyond = sum(abs(d) > args.tick + args.hooks for d in off)
    print(f"ts {len(ts)}, seq {len(seq)}, both {len(both)}: seq less ts mean {statistics.fmean(off):+.3f} us, min {off[0]:+.1f},"
          f" p50 {compare.at(off, 0.5):+.3f}, max {off[-1]:+.1f}; {beyond} differ by more than a tick")
    print(f"of the same stamp: {len(same)}, mean {statistics.fmean(same):+.3f} us, furthest {max(map(abs, same)):.3f}" if same else "none of the same stamp")
    fails = []
    if beyond > args.beyond * len(both):
        fails.append(f"{beyond} of {len(both)} differ by more than a tick")
    if same and abs(statistics.fmean(same)) > args.hooks:
        fails.append(f"of the same packets one is longer by {statistics.fmean(same):+.3f} us on average")
    return fails


def main():
    args = ask()
    ts, seq = (by_echo(*(compare.read(path, args.port, method) for path in paths)) for method, paths in
               (("ts", (args.ts, args.watch_ts)), ("seq", (args.seq, args.watch_seq))))
    fails = agree(ts, seq, args)
    for reason in fails:
        print("FAIL:", reason)
    sys.exit(bool(fails))


if __name__ == "__main__":
    main()
