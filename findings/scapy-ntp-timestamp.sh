#!/bin/sh
# Scapy 2.8.0, layers.ntp.TimeStampField (used by contrib.stamp): an NTP timestamp that is read and
# written again is another one.
#
# Seen: of 10,000 timestamps about three in four come back changed, by up to 3 units of 2^-32 s (0.7
# ns). The number that the field gives has 9 decimals (FixedPointField.i2h of scapy/fields.py), and the
# fraction has 32 bits, which are 9.6; writing rounds down.
# Expected: the bytes that were read. RFC 8762 section 4.3.1 wants the sender's timestamp copied, and a
# sender may know its packet by it, as ours does: it takes no answer with another timestamp.
# What helps: copy the eight bytes of the packet, and not the field.
#
# Ends with 0 while it is so, else with 1. Needs Python 3; writes into a temporary directory only.
set -eu
version=2.8.0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip install -q --root-user-action=ignore --target "$work/lib" "scapy==$version"
changed=$(PYTHONPATH="$work/lib" python3 - <<'PYTHON'
import random

from scapy.contrib.stamp import (
    STAMPSessionReflectorTestUnauthenticated as Answer,
    STAMPSessionSenderTestUnauthenticated as Packet,
)

random.seed(1)
changed = 0
for _ in range(10_000):
    packet = bytearray(bytes(Packet()))
    packet[4:12] = (0xEE8CF0A1 << 32 | random.getrandbits(32)).to_bytes(8, "big")
    answer = bytes(Answer(ts_sender=Packet(bytes(packet)).ts))
    changed += answer[28:36] != packet[4:12]
print(changed)
PYTHON
)
echo "scapy $version: $changed of 10000 timestamps are changed by reading and writing them"
[ "$changed" -gt 0 ] || {
    echo "this is no longer so"
    exit 1
}
