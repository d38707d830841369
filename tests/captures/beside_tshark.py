#!/usr/bin/env python3
"""What `lpm replay` and tshark make of the same captures, as a table: beside_tshark.py target/release/lpm [--fetch] [FILE...]

tshark pairs packets by other rules and in other code: tcp.analysis.ack_rtt and initial_rtt, icmp.resptime, dns.time. Without
a FILE captures are made here (handshakes, requests, loss, pings, DNS) and written the ways that captures go wrong: headers
cut, VLAN tags, frames twice, batches out of order, interfaces apart, coarse clocks, odd formats. `--fetch` adds the captures
that Debian's source package of nDPI carries (`apt-get source`, 127 MB, under target/captures). `--out FILE` writes the table
as Markdown. Fails if a time of a pair that both have differs and no definition says why.
"""
import argparse, collections, json, pathlib, re, subprocess, sys, tempfile

import made

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCE = ("ndpi", "4.2-2", "ndpi_4.2.orig.tar.gz")
FIELDS = """frame.number frame.time_epoch ip.src ipv6.src ip.dst ipv6.dst tcp.srcport tcp.dstport udp.srcport udp.dstport tcp.stream
tcp.flags tcp.analysis.ack_rtt tcp.analysis.acks_frame tcp.analysis.initial_rtt icmp.resptime icmp.resp_to icmpv6.resptime icmpv6.resp_to
dns.time dns.response_to tcp.analysis.retransmission tcp.analysis.out_of_order tcp.len""".split()
UNIT = 64                                      # lpm's, ns: a round trip is a difference of two of them
METHODS = ("handshake", "seq", "ts", "icmp", "dns")


def fetch():
    """The public collection: a directory of captures."""
    name, version, tar = SOURCE
    into = ROOT / "target/captures"
    found = into / "nDPI-4.2/tests/pcap"
    if found.is_dir():
        return found
    for part in ("lists/partial", "cache/archives/partial"):
        (into / part).mkdir(parents=True, exist_ok=True)
    (into / "sources.list").write_text("deb-src http://deb.debian.org/debian bookworm main\n")
    options = {"Dir::Etc::sourcelist": into / "sources.list", "Dir::Etc::sourceparts": "-", "Dir::State::lists": into / "lists",
               "Dir::Cache": into / "cache", "APT::Sandbox::User": "root"}
    options = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    print(f"fetching the source of {name} {version} into {into}", file=sys.stderr)
    subprocess.run(["apt-get", *options, "-qq", "update"], check=True, cwd=into)
    subprocess.run(["apt-get", *options, "-qq", "source", "--tar-only", "--download-only", f"{name}={version}"], check=True, cwd=into)
    subprocess.run(["tar", "xzf", tar, "--wildcards", "*/tests/pcap/*"], check=True, cwd=into)
    return found


def run(command, **more):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, errors="replace", timeout=600, **more)


def ns(text):
    """Seconds as text, exactly. What a record did not carry over tshark prints as ten digits behind the point."""
    whole, _, part = text.partition(".")
    return int(whole) * 10**9 + int(part.ljust(9, "0"))


class Pairs(dict):
    """By time and ends; what a clock cannot tell apart is left out."""

    def __init__(self):
        super().__init__()
        self.unclear = set()

    def put(self, key, rtt):
        if key in self or key in self.unclear:
            self.pop(key, None)
            self.unclear.add(key)
        else:
            self[key] = rtt


def sniffed(path):
    """tshark's packets: dicts of FIELDS."""
    out = run(["tshark", "-n", "-r", path, "-o", "tcp.relative_sequence_numbers:FALSE", "-o", "ip.check_checksum:FALSE", "-T", "fields",
               "-E", "occurrence=l", *(word for field in FIELDS for word in ("-e", field))]).stdout
    for line in out.splitlines():
        values = line.split("\t")
        if len(values) == len(FIELDS):
            yield dict(zip(FIELDS, values))


def by_tshark(path):
    """What tshark pairs: {method: {(time of the answer, ends): rtt in ns}}; and the time of a whole handshake by stream."""
    found, opened, times = collections.defaultdict(Pairs), {}, {}
    syns = set()
    for row in sniffed(path):
        if not row["frame.time_epoch"]:
            continue
        t = ns(row["frame.time_epoch"])
        times[row["frame.number"]] = t
        src, dst = row["ip.src"] or row["ipv6.src"], row["ip.dst"] or row["ipv6.dst"]
        ports = [row["tcp.srcport"] or row["udp.srcport"] or "0", row["tcp.dstport"] or row["udp.dstport"] or "0"]
        ends = frozenset(((src, int(ports[0])), (dst, int(ports[1]))))
        flags = int(row["tcp.flags"] or "0", 0)
        if flags & 2:
            syns.add(row["frame.number"])
        key = (t, ends)
        if row["tcp.analysis.acks_frame"] in times and row["tcp.analysis.ack_rtt"]:
            method = "handshake" if row["tcp.analysis.acks_frame"] in syns else "tcp"
            found[method].put(key, t - times[row["tcp.analysis.acks_frame"]])
        if row["tcp.analysis.initial_rtt"]:
            opened.setdefault(row["tcp.stream"], (ends, round(float(row["tcp.analysis.initial_rtt"]) * 1e9)))
        for kind in ("icmp", "icmpv6"):
            if row[kind + ".resp_to"] in times and row[kind + ".resptime"]:
                found["icmp"].put((t, frozenset(((src, 0), (dst, 0)))), t - times[row[kind + ".resp_to"]])
        if row["dns.response_to"] in times and row["dns.time"]:
            found["dns"].put(key, t - times[row["dns.response_to"]])
    return found, opened


def by_lpm(lpm, path, *options):
    """The same of `lpm replay`, what it said, and its exit code."""
    done = run([lpm, "replay", path, "--format", "json", *options])
    found = collections.defaultdict(Pairs)
    for line in done.stdout.splitlines():
        sample = json.loads(line)
        day, _, part = sample["time"].partition(".")
        t = made.seconds(day) * 10**9 + int(part.rstrip("Z").ljust(9, "0"))
        ports = (0, 0) if sample["method"] == "icmp" else (sample["sport"], sample["dport"])
        ends = frozenset(((sample["src"], ports[0]), (sample["dst"], ports[1])))
        found[sample["method"]].put((t, ends), sample["rtt_ns"])
    return found, done.stderr, done.returncode


class Tally:
    """Of one method."""

    def __init__(self):
        self.tshark = self.lpm = self.same = self.longer = self.shorter = self.lpm_only = self.tshark_only = 0
        self.examples = []

    def add(self, theirs, ours, off):
        unclear = getattr(ours, "unclear", set()) | getattr(theirs, "unclear", set())
        # tshark prints no round trip of 0 ns.
        ours, theirs = ({key: rtt for key, rtt in pairs.items() if key not in unclear and rtt} for pairs in (ours, theirs))
        self.tshark += len(theirs)
        self.lpm += len(ours)
        for key, rtt in ours.items():
            if key not in theirs:
                self.lpm_only += 1
            elif abs(rtt - theirs[key]) <= off:
                self.same += 1
            else:
                self.longer += rtt > theirs[key]
                self.shorter += rtt < theirs[key]
                self.examples.append((key, theirs[key], rtt))
        self.tshark_only += len(theirs.keys() - ours.keys())

    def row(self):
        return [self.tshark, self.lpm, self.same, self.longer, self.shorter, self.lpm_only, self.tshark_only]


def compare(lpm, ours, theirs, options, tallies, off=2 * UNIT):
    """Adds one capture to the tallies; `theirs` is what tshark reads of it."""
    pairs, opened = by_tshark(theirs)
    found, said, code = by_lpm(lpm, ours, *options)
    by_seq, _, _ = by_lpm(lpm, ours, "--methods", "seq", *options)
    for method, left, right in (("handshake", pairs["handshake"], found["handshake"]), ("seq", pairs["tcp"], by_seq["seq"]),
                                ("ts", pairs["tcp"], found["ts"]), ("icmp", pairs["icmp"], found["icmp"]), ("dns", pairs["dns"], found["dns"])):
        tallies[method].add(left, right, off)
    whole = collections.defaultdict(list)
    for (_, ends), rtt in sorted(found["handshake"].items(), key=lambda item: item[0][0]):
        whole[ends].append(rtt)
    # A port used again has several: of one connection only.
    once = collections.Counter(ends for ends, _ in opened.values())
    theirs = {(0, ends): rtt for ends, rtt in opened.values() if once[ends] == 1}
    ours = {(0, ends): sum(rtts) for ends, rtts in whole.items() if len(rtts) == 2}
    tallies["initial_rtt"].add(theirs, ours, 4 * UNIT)
    return said, code


HEAD = ["tshark", "lpm", "same time", "lpm longer", "lpm shorter", "lpm only", "tshark only"]


def table(title, head, rows):
    yield f"| {title} | " + " | ".join(head) + " |"
    yield "|" + "---|" * (len(head) + 1)
    for name, row in rows:
        yield f"| {name} | " + " | ".join(str(cell) for cell in row) + " |"


def of_made(lpm, lines):
    """The captures that are made here."""
    fails = []
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        for name, ours, theirs, options, off in made.captures(pathlib.Path(directory)):
            tallies = collections.defaultdict(Tally)
            said, code = compare(lpm, ours, theirs, options, tallies, off)
            cells = [f"{t.same} of {t.tshark}" if (t := tallies[method]).tshark or t.lpm else "" for method in (*METHODS, "initial_rtt")]
            # What the definitions explain: several segments acknowledged at once, and by `ts` what was sent again.
            defined = tallies["seq"].longer + tallies["ts"].longer + tallies["ts"].shorter
            wrong = sum(t.longer + t.shorter for t in tallies.values()) - defined
            rows.append((name, [*cells, defined, wrong]))
            if wrong or code:
                fails.append(f"{name}: {wrong} times differ, exit {code}: {said.strip()[-200:]}")
                fails += [f"  {method} {example}" for method in tallies for example in tallies[method].examples[:3]]
    lines += ["## Made captures", "", made.__doc__.strip().partition("\n\n")[2].replace("\n", " "), ""]
    lines += table("capture", [*METHODS, "whole handshake", "differs by definition", "differs"], rows)
    return fails


def of_files(lpm, lines, files, title):
    """Captures that are there."""
    tallies, fails = collections.defaultdict(Tally), []
    codes, unread = collections.Counter(), []
    for path in files:
        said, code = compare(lpm, path, path, [], tallies)
        codes[code] += 1
        if code:
            unread.append((path.name, re.sub(r"^.*?(?:\.pcap\w*|\.cap) ", "", said.strip().splitlines()[-1])))
        if code not in (0, 1):
            fails.append(f"{path.name}: exit {code}")
    lines += ["", f"## {title}", "", f"{len(files)} captures; {codes[0]} read to their ends, {codes[1]} not: " + "; ".join(sorted(
        f"{count} {why}" for why, count in collections.Counter(why.split(";")[0][:90] for _, why in unread).items())) + ".", ""]
    lines += table("method", HEAD, [(method, tallies[method].row()) for method in (*METHODS, "initial_rtt")])
    for method in METHODS:
        for key, theirs, ours in tallies[method].examples[:200]:
            print(f"{method}: tshark {theirs} ns, lpm {ours} ns at {key[0]} {sorted(key[1])}", file=sys.stderr)
    return fails


NOTES = (ROOT / "tests/captures/NOTES.md")


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("lpm")
    ask.add_argument("files", nargs="*", type=pathlib.Path, metavar="FILE")
    ask.add_argument("--fetch", action="store_true", help="with the captures of nDPI's source package")
    ask.add_argument("--out", type=pathlib.Path, help="a Markdown file for the table")
    args = ask.parse_args()
    version = run(["tshark", "--version"]).stdout.splitlines()[0]
    lines = ["# Captures, beside tshark", "", f"By `python3 tests/captures/beside_tshark.py target/release/lpm --fetch --out bench/results/tshark.md`; {version}.", ""]
    lines += NOTES.read_text().splitlines() + [""]
    fails = [] if args.files else of_made(args.lpm, lines)
    if args.fetch:
        files = sorted(path for path in fetch().iterdir() if path.suffix in (".pcap", ".pcapng", ".cap"))
        fails += of_files(args.lpm, lines, files, f"Public captures: the tests of nDPI, {SOURCE[2]} of Debian")
    if args.files:
        fails += of_files(args.lpm, lines, args.files, "Captures given")
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)
    for reason in fails:
        print("FAIL:", reason)
    sys.exit(bool(fails))


if __name__ == "__main__":
    main()
