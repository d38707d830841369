#!/usr/bin/env python3
"""Which RTT samples the handshakes of a capture should give.

handshake.py --local ADDR... < fields.tsv > oracle.jsonl      fields.tsv as for oracle.py, the lines, too

SYN to the first SYN-ACK that acknowledges it (prompt), or to a RST with ACK that refuses it (lone); SYN-ACK to the first
ACK that acknowledges it (lone, or data). Exactly: a number beyond it answers something else. What was sent twice is not
measured (RFC 6298 3). Unlike oracle.py's, `allowed` false means: the rules leave it open.
"""
import sys

import oracle
from oracle import ACK, FIN, RST, SYN, VOID_NS


class Sent:
    """A SYN or a SYN-ACK that waits for its answer."""

    def __init__(self, p, sure=True, anew=False):
        self.anew = anew                                          # on the ports of a connection that was not seen to end
        self.t, self.seq, self.token, self.sure, self.open = p["t"], p["seq"], (p["seq"] + 1) % 2**32, sure, True
        self.reach = (self.token + p["len"]) % 2**32              # of a SYN with data (RFC 7413)


class Handshake:
    def __init__(self, local):
        self.local, self.flows, self.samples = local, {}, []      # flows: ends -> (SYN by sender, SYN-ACK by sender)
        self.early = {}                                           # ends -> what was acknowledged before it passed, by sender
        self.living = set()                                       # ends whose connection is open, as far as was seen

    def packet(self, p):
        """Takes the next packet of the capture."""
        key = tuple(sorted((p["src"], p["dst"])))
        kind = p["flags"] & (SYN | ACK | RST)
        lived = key in self.living
        if p["flags"] & (FIN | RST | SYN):
            self.living.discard(key)
        elif kind == ACK:
            self.living.add(key)
        if kind == SYN:
            self.syn(p, key, lived)
            return
        syns, synacks = self.flows.setdefault(key, ({}, {}))
        early = self.early.setdefault(key, {})
        asked, offered = syns.get(p["dst"]), synacks.get(p["dst"])
        if kind & RST:
            if kind == RST | ACK and asked and p["ack"] == asked.token:
                self.answer(p, asked, "lone", asked.sure)
            del self.flows[key], self.early[key]
        elif kind == SYN | ACK:
            if not asked:
                early[p["src"]] = p["ack"]
            if asked and p["ack"] in (asked.token, asked.reach):
                answered = p["dst"] in early                      # its own ACK passed before it
                self.answer(p, asked, "prompt", asked.sure and p["ack"] == asked.token and not answered)
            self.synack(p, asked, syns, synacks)
            if early.get(p["dst"]) == synacks.get(p["src"], asked or Sent(p)).token:
                synacks[p["src"]].open = False                    # its ACK passed before it
        elif kind == ACK and offered:
            if p["ack"] == offered.token:
                self.answer(p, offered, "data" if p["len"] or p["flags"] & FIN else "lone", offered.sure)
            elif (p["ack"] - offered.token) % 2**32 < 2**31:
                offered.open = False                              # passed
        elif kind == ACK and syns.get(p["src"]):
            early[p["src"]] = p["ack"]

    def syn(self, p, key, lived):
        syns, synacks = self.flows.get(key, ({}, {}))
        mine, theirs = syns.get(p["src"]), syns.get(p["dst"])
        early = self.early.setdefault(key, {})
        if not mine and p["dst"] in synacks and early.get(p["dst"]) == (p["seq"] + 1) % 2**32:
            syns[p["src"]] = Sent(p, sure=False)                  # its SYN-ACK passed before it
            syns[p["src"]].open = synacks[p["dst"]].sure = False
        elif mine and mine.seq == p["seq"]:                       # Karn
            mine.open = False
            for sent in synacks.values():                         # was it for the first or for this one
                sent.sure = False
        elif theirs and theirs.open and not mine:                 # both open at once (RFC 9293 3.5)
            theirs.sure = False
            syns[p["src"]] = Sent(p, sure=False)
        else:
            # An end takes no SYN while the connection lives (RFC 5961 4), so who only watches may wait for both ends' word
            # that it is another one.
            self.flows[key] = ({p["src"]: Sent(p, sure=not lived, anew=lived)}, {})
            early.clear()

    @staticmethod
    def synack(p, asked, syns, synacks):
        before = synacks.get(p["src"])
        if before and before.seq == p["seq"]:                     # Karn
            before.open = False
        elif p["src"] not in syns:                                # else its number was sent before, in a SYN of its own
            plain = asked is not None and p["ack"] in (asked.token, asked.reach)
            synacks[p["src"]] = Sent(p, sure=plain and before is None and not asked.anew)

    def answer(self, p, sent, echo, sure):
        rtt = p["t"] - sent.t
        if sent.open and rtt < VOID_NS:
            self.samples.append(dict(
                src=p["dst"][0], sport=p["dst"][1], dst=p["src"][0], dport=p["src"][1], id=sent.token, stamp_ns=sent.t,
                time_ns=p["t"], rtt_ns=rtt, leg="remote" if p["dst"][0] in self.local else "local", echo=echo,
                method="handshake", allowed=sure, margin_ns=None))
        sent.open = False


def main():
    args = oracle.options(__doc__).parse_args()
    oracle.write(oracle.samples(Handshake(args.local), by_time=args.by_time))


if __name__ == "__main__":
    sys.exit(main())
