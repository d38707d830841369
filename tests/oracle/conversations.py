#!/usr/bin/env python3
"""Random TCP conversations as a capture: conversations.py FILE.pcap [--flows N] [--seed N] [--timestamps]

Each begins with a handshake and goes on with what a network and odd stacks do: copies, holes, old and doubled ACKs, SACK,
keep-alives, ACKs of what was never sent, segments without ACK, late SYN-ACKs, resets and ports used again. The addresses of
the pod are 198.18.1.2, so that oracle and `lpm replay --local 198.18.1.0/24` see the same ends.
"""
import argparse, random, struct

POD, FAR = "198.18.1.2", "198.18.2.2"
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
MSS = 1460
GAPS = (1_000, 6_400, 20_000, 300_000, 3_000_000, 12_800_000)


class End:
    """One end: the number it sends next, and how much of it the other end has acknowledged."""

    def __init__(self, address, port, number):
        self.at, self.begin, self.next, self.known, self.tsval = (address, port), number, number, number, 0
        self.packets = 0                                          # what is sent again has another identification


class Talk:
    """One connection; its packets are in `rows`: (ns, bytes, length on the wire)."""

    def __init__(self, rnd, port, t, timestamps):
        self.rnd, self.t, self.timestamps, self.rows = rnd, t, timestamps, []
        number = rnd.choice((rnd.getrandbits(32), 2**32 - rnd.randrange(1, 6000), 2**31 - rnd.randrange(6000)))
        self.ends = [End(POD, port, number), End(FAR, 5301, rnd.getrandbits(32))]

    def send(self, own, other, flags, seq, ack, length=0, sack=False):
        options = struct.pack(">BBH", 2, 4, MSS) if flags & SYN else b""
        if sack:
            options += b"\1\1\5\x0a" + struct.pack(">II", (ack + 100) % 2**32, (ack + 200) % 2**32)
        if self.timestamps:
            own.tsval = self.t // 1_000_000 % 2**32
            options += b"\1\1\x08\x0a" + struct.pack(">II", own.tsval, other.tsval)
        tcp = struct.pack(">HHIIBBHHH", own.at[1], other.at[1], seq % 2**32, ack % 2**32, (20 + len(options)) // 4 << 4,
                          flags, 65535, 0, 0) + options
        own.packets += 1
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp) + length, own.packets, 0x4000, 64, 6, 0)
        ends = b"".join(bytes(map(int, end.at[0].split("."))) for end in (own, other))
        frame = b"\2\0\0\0\0\1\2\0\0\0\0\2\x08\0" + ip + ends + tcp
        padding = max(0, 60 - len(frame) - length)                # as Ethernet does
        self.rows.append((self.t, frame + b"Z" * min(length, 20) + bytes(padding), len(frame) + length + padding))

    def wait(self, gaps=GAPS):
        self.t += self.rnd.choice(gaps) + self.rnd.randrange(1000)

    def handshake(self, client, server):
        """False: it was refused."""
        again = lambda: self.rnd.choice((1, 1, 1, 1, 2))
        for _ in range(again()):
            self.send(client, server, SYN, client.begin, 0)
            self.wait()
        if self.rnd.random() < 0.1:
            self.send(server, client, RST | ACK, 0, client.begin + 1)
            self.wait()
            return False
        for _ in range(again()):
            self.send(server, client, SYN | ACK, server.begin, client.begin + 1)
            self.wait()
        for end in (client, server):
            end.next = end.known = end.begin + 1
        self.send(client, server, ACK, client.next, server.next)
        self.wait()
        return True

    def step(self, own, other):
        """One packet; false: it was the last."""
        rnd, k = self.rnd, self.rnd.random()
        size = rnd.choice((1, 2, 100, MSS - 12 * self.timestamps, MSS - 12 * self.timestamps, 2 * MSS, 3 * MSS))
        data = lambda seq, size=size, flags=PSH | ACK: self.send(own, other, flags, seq, other.known, size)
        pure = lambda ack, **more: self.send(own, other, ACK, own.next, ack, **more)
        if k < 0.42:
            data(own.next)
            own.next += size
        elif k < 0.75:                                            # acknowledges all, or a part
            if other.next > other.known:
                other.known = other.next if rnd.random() < 0.6 else rnd.randrange(other.known, other.next) + 1
            if rnd.random() < 0.2:
                data(own.next)
                own.next += size
            else:
                pure(other.known)
        elif k < 0.80:                                            # a copy, perhaps of odd length
            seq = rnd.randrange(max(own.begin + 1, own.next - 4000), own.next + 1)
            data(seq)
            own.next = max(own.next, seq + size)
        elif k < 0.83:                                            # a hole
            data(own.next + size)
            own.next += 2 * size
        elif k < 0.88:
            pure(other.known)
        elif k < 0.90:
            pure(other.known, sack=True)
        elif k < 0.93:
            data(own.next - 1, rnd.choice((0, 1)), ACK)           # a keep-alive
        elif k < 0.95:
            pure(max(other.begin + 1, other.known - rnd.randrange(1, 3000)))
        elif k < 0.955:
            pure(other.next + rnd.randrange(1, 100_000))
        elif k < 0.965:
            self.send(own, other, PSH, own.next, other.next)
        elif k < 0.975:
            self.send(own, other, SYN | ACK, own.begin, other.begin + 1)
        elif k < 0.985:
            self.send(own, other, RST | ACK, own.next, other.known)
            return False
        elif k < 0.99:                                            # the port again
            for end in (own, other):
                end.begin += rnd.randrange(100, 10**6)
            return self.handshake(own, other)
        else:
            self.wait((250_000_000,))
        return True

    def run(self):
        ends = self.ends if self.rnd.random() < 0.7 else self.ends[::-1]
        going = self.handshake(*ends)
        for _ in range(self.rnd.randrange(3, 120)):
            if not going:
                break
            ends = self.rnd.choice((self.ends, self.ends[::-1]))
            going = self.step(*ends)
            self.wait()
        return self.rows


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("file")
    ask.add_argument("--flows", type=int, default=400)
    ask.add_argument("--seed", type=int, default=1)
    ask.add_argument("--timestamps", action="store_true")
    args = ask.parse_args()
    rnd, rows, last = random.Random(args.seed), [], 0
    for n in range(args.flows):
        rows += Talk(rnd, 10_000 + n, 10**18 + n * 1_000_000, args.timestamps).run()
    with open(args.file, "wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 1))
        for t, frame, length in sorted(rows):
            last = max(t, last + 64)                              # one order for everybody
            file.write(struct.pack("<IIII", last // 10**9, last % 10**9, len(frame), length) + frame)


if __name__ == "__main__":
    main()
