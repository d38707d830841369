#!/bin/sh
# Linux 6.18, SO_TIMESTAMPING with SOF_TIMESTAMPING_OPT_ID: a packet whose sending is refused takes a
# number, too.
#
# Seen: five echo requests by one socket, of which netfilter refuses the second and the fourth; sendto
# fails with EPERM for these. The times of sending of the others have the numbers 0, 2 and 4. A queue
# that drops a packet does the same (ENOBUFS), but a packet without a route takes no number (ENETUNREACH).
# Expected: 0, 1 and 2. Documentation/networking/timestamping.rst says that the counter "increments with
# each sent packet", and a program counts what was sent. __ip_append_data of net/ipv4/ip_output.c takes the
# number before the packet goes to netfilter.
# What follows: whoever counts successful calls gives each later packet the time of another one.
# What helps: after a call that failed, clear OPT_ID and set it again, which begins at 0.
#
# Ends with 0 while it is so, else with 1. Needs Python 3, nft and root; works in a network namespace of
# its own.
set -eu
[ "${1-}" = inside ] || exec unshare --net "$0" inside
ip link set lo up
nft 'table ip t { chain o { type filter hook output priority 0; ip daddr 127.0.0.9 drop; }; }'
seen=$(python3 - <<'PYTHON'
import socket
import struct
import time

SO_TIMESTAMPING, TX_SOFTWARE, SOFTWARE, OPT_ID, OPT_TSONLY = 37, 2, 16, 128, 2048
IP_RECVERR, ORIGIN_TIMESTAMPING = 11, 4
opened = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
opened.setblocking(False)
flags = TX_SOFTWARE | SOFTWARE | OPT_ID | OPT_TSONLY
opened.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, flags)
refused = 0
for host in (1, 9, 1, 9, 1):
    try:
        opened.sendto(bytes([8, 0, 0xF7, 0xFF, 0, 0, 0, 0]), (f"127.0.0.{host}", 0))
    except PermissionError:
        refused += 1
numbers, end = [], time.monotonic() + 10
while len(numbers) < 3 and time.monotonic() < end:
    try:
        _, control, _, _ = opened.recvmsg(0, 512, socket.MSG_ERRQUEUE)
    except BlockingIOError:
        continue
    for level, kind, data in control:
        if (level, kind) == (socket.IPPROTO_IP, IP_RECVERR) and data[4] == ORIGIN_TIMESTAMPING:
            numbers.append(struct.unpack_from("I", data, 12)[0])
print(refused, "refused; numbers", *numbers)
PYTHON
)
echo "Linux $(uname -r): $seen"
[ "$seen" = "2 refused; numbers 0 2 4" ] || {
    echo "this is no longer so"
    exit 1
}
