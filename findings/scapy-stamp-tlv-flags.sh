#!/bin/sh
# Scapy 2.8.0, contrib.stamp: the flags of a STAMP TLV stand the other way round.
#
# Seen: a TLV with flags "U" is written with the first byte 0x01, "M" with 0x02 and "I" with 0x04; a
# reflector's 0x80 is shown as a reserved flag. RFC 8972 section 4 draws U as bit 0 of the byte,
# which in an RFC is the highest: 0x80, then M 0x40 and I 0x20 (section 5.2). The field names its flags
# "UMIRRRRR", and Scapy's FlagsField counts names from the lowest bit.
# Expected: 80, 40, 20.
# What helps: give the flags as a number ("flags=0x80"), and turn the byte round before comparing.
#
# Ends with 0 while it is so, else with 1. Needs Python 3; writes into a temporary directory only.
set -eu
version=2.8.0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip install -q --root-user-action=ignore --target "$work/lib" "scapy==$version"
seen=$(PYTHONPATH="$work/lib" python3 - <<'PYTHON'
from scapy.contrib.stamp import STAMPTestTLV

first = [bytes(STAMPTestTLV(flags=flag, type=3, len=0))[0] for flag in "UMI"]
print(*(f"{byte:02x}" for byte in first), "| 80 is", STAMPTestTLV(b"\x80\x03\x00\x00").flags)
PYTHON
)
echo "scapy $version, first byte of a TLV with flag U, M, I: $seen"
[ "$seen" = "01 02 04 | 80 is R" ] || {
    echo "this is no longer so"
    exit 1
}
