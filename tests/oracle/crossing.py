"""Whether a sample is what the reference finds when one packet changes places with its neighbours.

Hook and capture are a microsecond apart. Two packets of a flow on two CPUs, or one whose CPU is taken away between the
two, pass them in different orders; then both are right. So a sample that the capture's order does not give is excused if
an order next to it does: one packet of those that the sample is about moved by up to MOVES places, over packets that
passed within NEAR_NS of it, or two pairs of neighbours swapped. Of a long flow the handshake and what lies around these
packets is read again.
"""
import collections

from oracle import parse

MOVES, NEAR_NS = 3, 3_000_000
FIRST = 3              # packets with the number, by each side
AROUND = 300           # packets before and after them


def flows(lines):
    """The packets of a capture (lines of tshark's fields) by flow, in the capture's order."""
    found = collections.defaultdict(list)
    for p in map(parse, lines):
        found[frozenset((p["src"], p["dst"]))].append(p)
    return found


def about(sample, rows, method):
    """Places of the packets that stamp the sample's id, or answer it, and of their neighbours."""
    source = (sample["src"], sample["sport"])
    if method == "ts":
        stamps, answers = (lambda p: p["val"]), (lambda p: p["ecr"])
    else:
        stamps, answers = (lambda p: (p["seq"] + p["len"]) % 2**32), (lambda p: p["ack"])
    ours = [n for n, p in enumerate(rows) if p["src"] == source and stamps(p) == sample["id"]]
    theirs = [n for n, p in enumerate(rows) if p["src"] != source and answers(p) == sample["id"]]
    near = {n + by for n in ours[:FIRST] + theirs[:FIRST] for by in range(-MOVES, MOVES + 1)}
    return sorted(n for n in near if 0 <= n < len(rows))


def moved(rows, place, by):
    """The rows with the one at `place` moved; None: what it would pass is too far away. It takes the time there."""
    to = place + by
    if not 0 <= to < len(rows) or abs(rows[to]["t"] - rows[place]["t"]) > NEAR_NS:
        return None
    order = rows[:place] + rows[place + 1:]
    return order[:to] + [dict(rows[place], t=rows[to]["t"])] + order[to:]


def gives(sample, rows, make, judged):
    """Whether the reference finds the sample in packets that come in this order; if its class is judged, of that class."""
    reference = make()
    for p in rows:
        reference.packet(dict(p))
    seen, firsts = set(), []                    # one ACK may answer several stamps; the oldest makes its sample
    for s in reference.samples:
        if s.get("group") not in seen:
            firsts.append(s)
        seen |= {s["group"]} if "group" in s else set()
    return any(s["id"] == sample["id"] and (s["src"], s["sport"]) == (sample["src"], sample["sport"])
               and s["leg"] == sample["leg"] and abs(s["rtt_ns"] - sample["rtt_ns"]) < NEAR_NS
               and (s["echo"] == sample["echo"] or not judged) for s in firsts)


def orders(rows, places):
    """The orders next to the capture's: one packet moved, or two pairs of neighbours swapped."""
    steps = [by for by in range(-MOVES, MOVES + 1) if by]
    for place in places:
        for by in steps:
            order = moved(rows, place, by)
            if order:
                yield order
    for n, place in enumerate(places):
        order = moved(rows, place, 1)
        for other in places[n + 1:] if order else ():
            twice = moved(order, other, 1)
            if twice:
                yield twice


def explains(sample, rows, method, make, judged):
    """Whether some order next to the capture's gives this sample, and the capture's does not; `make` makes the reference."""
    places = about(sample, rows, method)
    if places:
        begin = max(3, places[0] - AROUND)
        rows = rows[:3] + rows[begin:places[-1] + AROUND]
        places = about(sample, rows, method)
    if gives(sample, rows, make, judged):
        return False                            # then it is wrong for another reason
    return any(gives(sample, order, make, judged) for order in orders(rows, places))
