"""Captures that are made: conversations whose times are known, written in the ways that captures come.

A hundred connections over IPv4 and IPv6, with and without timestamps, of requests and bursts with segments lost on the way;
pings; DNS lookups. `n of m`: so many of tshark's pairs have the same time in lpm. tshark reads what is whole and in order: `frames twice` before they were doubled, `batches` after reordercap, the halves of a tap before they were parted.
"""
import calendar, random, socket, struct, subprocess, time

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
MS, S = 1_000_000, 1_000_000_000
BEGIN = 1_767_322_400 * S
ETHERNET, RAW, SLL2 = 1, 101, 276


def seconds(day):
    return calendar.timegm(time.strptime(day, "%Y-%m-%dT%H:%M:%S"))


class Host:
    def __init__(self, address):
        self.address, self.packets = address, 0


def ip(host, other, protocol, payload):
    """A packet of one host's to another."""
    host.packets += 1
    if ":" in host.address:
        ends = b"".join(socket.inet_pton(socket.AF_INET6, end.address) for end in (host, other))
        return struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64) + ends + payload
    ends = b"".join(socket.inet_aton(end.address) for end in (host, other))
    return struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), host.packets % 65536, 0x4000, 64, protocol, 0) + ends + payload


def checked(host, other, body):
    """An ICMP message with its checksum: tshark pairs by it."""
    pseudo = b""
    if ":" in host.address:
        pseudo = b"".join(socket.inet_pton(socket.AF_INET6, end.address) for end in (host, other)) + struct.pack(">II", len(body), 58)
    total = sum(struct.unpack(f">{len(pseudo + body) // 2}H", pseudo + body))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return body[:2] + struct.pack(">H", ~total & 0xFFFF) + body[4:]


class Connection:
    """A connection; `rows` are (ns, from the client, packet)."""

    def __init__(self, rnd, client, server, port, stamps, start):
        self.rnd, self.ends, self.port, self.stamps, self.rows = rnd, (client, server), port, stamps, []
        self.seq = [rnd.getrandbits(32), rnd.getrandbits(32)]
        self.clock, self.newest = [rnd.getrandbits(31), rnd.getrandbits(31)], [0, 0]
        self.rtt, self.start = rnd.randrange(200_000, 30 * MS), start

    def send(self, t, way, flags, payload=b"", seq=None, ack=None):
        options = b"\2\4" + struct.pack(">H", 1460) + b"\1\3\3\7" if flags & SYN else b""
        if self.stamps:
            tsval = (self.clock[way] + t // MS) % 2**32
            options = options + b"\1\1\x08\x0a" + struct.pack(">II", tsval, self.newest[way])
            self.newest[1 - way] = tsval
        seq = self.seq[way] if seq is None else seq
        ack = (self.seq[1 - way] if ack is None else ack) if flags & ACK else 0
        ports = (self.port, 5301) if way == 0 else (5301, self.port)
        head = struct.pack(">HHIIBBHHH", *ports, seq % 2**32, ack % 2**32, (20 + len(options)) // 4 << 4, flags, 65000, self.rnd.getrandbits(16), 0)
        self.rows.append((self.start + t, way == 0, ip(self.ends[way], self.ends[1 - way], 6, head + options + payload)))
        self.seq[way] = max(self.seq[way], seq + len(payload) + bool(flags & (SYN | FIN)))

    def run(self, requests):
        t = 0
        self.send(t, 0, SYN)
        self.send(t := t + self.rtt, 1, SYN | ACK)
        self.send(t := t + self.rnd.randrange(1_000, 50_000), 0, ACK)
        for _ in range(requests):
            t += self.rnd.randrange(1, 50) * MS
            size, count = self.rnd.choice((30, 100, 1000)), self.rnd.choice((1, 1, 1, 3))
            for i in range(count):                                # a request of some segments
                self.send(t + i * 5_000, 0, ACK | PSH, b"q" * size)
            t += count * 5_000
            if self.rnd.random() < 0.05:                          # lost behind the tap: sent again after 200 ms
                last = self.seq[0] - size
                self.send(t := t + 200 * MS, 0, ACK | PSH, b"q" * size, seq=last)
            self.send(t := t + self.rtt, 1, ACK)
            self.send(t := t + self.rnd.randrange(10_000, 5 * MS), 1, ACK | PSH, b"a" * self.rnd.choice((50, 1400)))
            self.send(t := t + self.rnd.randrange(1_000, 100_000), 0, ACK)
        self.send(t := t + MS, 0, ACK | FIN)
        self.send(t := t + self.rtt, 1, ACK | FIN)
        self.send(t + 5_000, 0, ACK)
        return self.rows


def questions(rnd, client, server, start):
    """Pings and lookups."""
    v6, rows = ":" in client.address, []
    for i in range(200):
        t, rtt = start + i * 20 * MS, rnd.randrange(50_000, 15 * MS)
        for way, later, kind in ((0, 0, 128 if v6 else 8), (1, rtt, 129 if v6 else 0)):
            body = struct.pack(">BBHHH", kind, 0, 0, 9, i + 1) + bytes(range(48))
            ends = (client, server) if way == 0 else (server, client)
            rows.append((t + later, way == 0, ip(*ends, 58 if v6 else 1, checked(*ends, body))))
        t, rtt = t + 3 * MS, rnd.randrange(50_000, 15 * MS)
        if rnd.random() < 0.05:
            continue                                              # nobody answers
        for way, later in ((0, 0), (1, rtt)):
            flags = 0x8180 if way else 0x0100
            body = struct.pack(">HHHHHH", 1000 + i, flags, 1, 0, 0, 0) + b"\3web\4demo\0" + struct.pack(">HH", 1, 1)
            ports = (40_000 + i, 53) if way == 0 else (53, 40_000 + i)
            ends = (client, server) if way == 0 else (server, client)
            udp = struct.pack(">HHHH", *ports, 8 + len(body), rnd.getrandbits(16)) + body
            rows.append((t + later, way == 0, ip(*ends, 17, udp)))
    return rows


def everything(seed=1):
    """All packets in the order of their times: (ns, from the client, packet)."""
    rnd, rows = random.Random(seed), []
    for client, server in (("198.18.1.2", "198.18.2.2"), ("fd00::1:2", "fd00::2:2")):
        hosts = Host(client), Host(server)
        for i in range(50):
            start = BEGIN + rnd.randrange(10 * S)
            rows += Connection(rnd, *hosts, 20_000 + i, i % 2 == 0, start).run(rnd.randrange(2, 40))
        rows += questions(rnd, *hosts, BEGIN)
    # Hosts and queues never have two packets at one time.
    rows.sort(key=lambda row: row[0])
    return rows


def ether(packet, tags=b""):
    return b"\2\0\0\0\0\2\2\0\0\0\0\1" + tags + (b"\x86\xdd" if packet[0] >> 4 == 6 else b"\x08\0") + packet


def sll2(packet):
    return (b"\x86\xdd" if packet[0] >> 4 == 6 else b"\x08\0") + struct.pack(">HIHBB8s", 0, 3, 1, 0, 6, b"\2\0\0\0\0\1\0\0") + packet


def pcap(records, order="<", link=ETHERNET, magic=0xA1B23C4D, late=0):
    """`late`: every so many records carry nothing over into the seconds."""
    out = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 262144, link)]
    per = 1 if magic == 0xA1B23C4D else 1000
    for i, (t, frame) in enumerate(records):
        s, part = t // S, t % S // per
        if late and i % late == 0:
            s, part = s - 1, part + S // per
        more = struct.pack(order + "IHH", 3, 0x0800, 0) if magic == 0xA1B2CD34 else b""
        out.append(struct.pack(order + "IIII", s, part, len(frame), len(frame)) + more + frame)
    return b"".join(out)


def pcapng(records, order="<", obsolete=False, names=(b"va",)):
    """Records are (ns, frame) or (ns, frame, interface)."""
    def block(kind, body):
        body += b"\0" * (-len(body) % 4)
        return struct.pack(order + "II", kind, 12 + len(body)) + body + struct.pack(order + "I", 12 + len(body))

    def option(code, value):
        return struct.pack(order + "HH", code, len(value)) + value + b"\0" * (-len(value) % 4)

    out = [block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))]
    out += [block(1, struct.pack(order + "HHI", ETHERNET, 0, 262144) + option(2, name) + option(9, b"\x09") + option(0, b"")) for name in names]
    for t, frame, *at in records:
        at = at[0] if at else 0
        head = struct.pack(order + "HH", at, 0xFFFF) if obsolete else struct.pack(order + "I", at)
        out.append(block(2 if obsolete else 6, head + struct.pack(order + "IIII", t >> 32, t & 0xFFFFFFFF, len(frame), len(frame)) + frame))
    return b"".join(out)


def captures(directory):
    """(name, capture for lpm, capture for tshark, options of lpm, ns that times may differ by)"""
    rows = everything()
    frames = [(t, ether(packet)) for t, _, packet in rows]
    units = 128

    def file(name, content):
        path = directory / name
        path.write_bytes(content)
        return path

    def tool(*words):
        subprocess.run([str(word) for word in words], check=True, capture_output=True)

    whole = file("whole.pcap", pcap(frames))
    yield "whole, nanoseconds", whole, whole, [], units
    for name, content in (
        ("microseconds, big-endian", pcap(frames, ">", magic=0xA1B2C3D4)),
        ("pcapng", pcapng(frames)),
        ("pcapng, Packet Blocks", pcapng(frames, obsolete=True)),
        ("pcapng, Packet Blocks, big-endian", pcapng(frames, ">", obsolete=True)),
        ("modified magic", pcap(frames, magic=0xA1B2CD34)),
        ("modified magic, big-endian", pcap(frames, ">", magic=0xA1B2CD34)),
        ("seconds not carried over", pcap(frames, magic=0xA1B2C3D4, late=7)),
        ("raw IP", pcap([(t, packet) for t, _, packet in rows], link=RAW)),
        ("Linux cooked v2", pcap([(t, sll2(packet)) for t, _, packet in rows], link=SLL2)),
        ("a VLAN tag", pcap([(t, ether(packet, b"\x81\0\0\5")) for t, _, packet in rows])),
        ("two VLAN tags", pcap([(t, ether(packet, b"\x88\xa8\0\7\x81\0\0\5")) for t, _, packet in rows])),
        ("clock of 10 ms", pcap([(t // (10 * MS) * 10 * MS, frame) for t, frame in frames])),
    ):
        path = file(name.replace(" ", "-"), content)
        yield name, path, path, [], units
    for snap in (96, 68, 54):
        cut = directory / f"snap-{snap}.pcap"
        tool("editcap", "-F", "nsecpcap", "-s", snap, whole, cut)
        yield f"snap length {snap}", cut, cut, [], units
    twice = [(t + later, frame) for t, frame in frames for later in (0, 8_000)]
    yield "frames twice", file("twice.pcap", pcap(twice)), whole, [], units
    for batch in (12, 40, 400):
        turns = sorted(rows, key=lambda row: (row[0] // (batch * MS), row[1], row[0]))
        written = file(f"batches-{batch}.pcap", pcap([(t, ether(packet)) for t, _, packet in turns]))
        in_order = directory / f"in-order-{batch}.pcap"
        tool("reordercap", written, in_order)
        yield f"batches of {batch} ms", written, in_order, [], units
    halves = file("halves.pcapng", pcapng([(t, ether(packet), int(first)) for t, first, packet in rows], names=(b"east", b"west")))
    yield "halves of a tap, joined", halves, whole, ["--join", "east,west"], units
