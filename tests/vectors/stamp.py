#!/usr/bin/env python3
"""Writes stamp.json: STAMP packets and the answers that a reflector must give, byte by byte.

The layouts are written here from the figures of RFC 8762 and RFC 8972, and the HMACs are Python's, so
the code under test has no part in them. Where Scapy's contrib.stamp can be imported, each
unauthenticated request must be what Scapy writes (Scapy turns the flags of TLVs round, see
findings/scapy-stamp-tlv-flags.sh, so they are given as numbers).

    python3 tests/vectors/stamp.py > tests/vectors/stamp.json
"""

import hashlib
import hmac
import json
import struct
import sys

KEY = b"a key of this session"
OTHER = b"another key"

# The sender's packet: number 7, T1, Error Estimate, SSID.
SEQUENCE, T1, ERROR, SSID = 7, 0xEE8CF0A1_00000000, 0x0309, 0x1234
# What the reflector knows: its count, T2, T3, its Error Estimate, the TTL that arrived.
COUNT, T2, T3, ITS_ERROR, TTL = 9, 0xEE8CF0A1_7FB00000, 0xEE8CF0A1_80000000, 0x8C4D, 63
# The last answer: its number, its time of sending, by software of this machine.
PREVIOUS = struct.pack("!IQB3x", 8, 0xEE8CF0A1_60000000, 2)
DSCP, ECN = 34, 1
PORTS = struct.pack("!HH", 862, 40000)
TO, FROM = bytes([198, 18, 2, 2]), bytes([198, 18, 1, 2])

U, M, I = 0x80, 0x40, 0x20
PADDING, LOCATION, TIMESTAMPS, CLASS, DIRECT, ACCESS, FOLLOW_UP, HMAC = range(1, 9)


def tag(key, *parts):
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()[:16]


def sender(ssid=SSID, authenticated=False):
    """RFC 8972 figures 1 and 3, without the HMAC."""
    if authenticated:
        return struct.pack("!I12xQHH68x", SEQUENCE, T1, ERROR, ssid)
    return struct.pack("!IQHH28x", SEQUENCE, T1, ERROR, ssid)


def reflector(ssid=SSID, authenticated=False, count=COUNT):
    """RFC 8972 figures 2 and 4, without the HMAC."""
    if authenticated:
        return struct.pack(
            "!I12xQHH4xQ8xI12xQH6xB15x", count, T3, ITS_ERROR, ssid, T2, SEQUENCE, T1, ERROR, TTL
        )
    return struct.pack("!IQHHQIQH2xB3x", count, T3, ITS_ERROR, ssid, T2, SEQUENCE, T1, ERROR, TTL)


def tlv(kind, value, flags=U):
    return struct.pack("!BBH", flags, kind, len(value)) + value


def protect(base, row, flags=U, behind=b""):
    """Puts an HMAC TLV behind `row` (RFC 8972 section 4.8), and `behind` behind that."""
    return row + tlv(HMAC, tag(KEY, base[:4], row), flags) + behind


def close(base):
    """Puts the base packet's HMAC behind its 96 bytes (RFC 8762 section 4.4)."""
    assert len(base) == 96
    return base + tag(KEY, base)


CASES = []


def case(name, why, request, answer, mode="unauthenticated", key=None, **more):
    assert len(request) == len(answer), name
    CASES.append(
        {
            "name": name,
            "why": why,
            "mode": mode,
            "key": key.decode() if key else None,
            "request": request.hex(),
            "answer": answer.hex(),
            **more,
        }
    )


def plain(name, why, asked, answered, **more):
    case(name, why, sender() + asked, reflector() + answered, **more)


def authenticated(name, why, asked, answered, **more):
    """TLVs in an authenticated session, with an HMAC TLV behind them.

    Behind a malformed TLV all is copied, also the flags of the HMAC TLV; its digest is one of the
    answer, so that the sender can believe flag M."""
    ask, answer = sender(authenticated=True), reflector(authenticated=True)
    case(
        name,
        why,
        close(ask) + protect(ask, asked),
        close(answer) + protect(answer, answered, U if answered[0] == M else 0),
        mode="authenticated",
        key=KEY,
        **more,
    )


# The TLVs of RFC 8972 with what a reflector makes of each, flags and value.
TLVS = {
    "extra_padding": (PADDING, b"\1\2\3\4\5\6\7", 0, b"\1\2\3\4\5\6\7"),
    "extra_padding_of_nothing": (PADDING, b"", 0, b""),
    "location_ports_only": (LOCATION, bytes(4), 0, PORTS),
    "location_source_mac": (
        LOCATION,
        bytes(4) + tlv(1, bytes(8)),
        0,
        # No MAC address is seen, so the EUI-64 is zero (section 4.2.2).
        PORTS + tlv(3, bytes(8), 0),
    ),
    "location_destination": (
        LOCATION,
        bytes(4) + tlv(4, bytes(16)),
        0,
        PORTS + tlv(5, TO + bytes(12), 0),
    ),
    "location_source": (
        LOCATION,
        bytes(4) + tlv(7, bytes(16)),
        0,
        PORTS + tlv(8, FROM + bytes(12), 0),
    ),
    "location_values_are_ignored": (
        LOCATION,
        b"\xff" * 4 + tlv(7, b"\xff" * 16),
        0,
        PORTS + tlv(8, FROM + bytes(12), 0),
    ),
    "location_sub_tlv_unknown": (LOCATION, bytes(4) + tlv(99, b"x"), 0, PORTS + tlv(99, b"x", U)),
    "location_sub_tlv_malformed": (
        LOCATION,
        bytes(4) + tlv(7, bytes(15)),
        0,
        PORTS + tlv(7, bytes(15), M),
    ),
    "location_too_short": (LOCATION, bytes(3), M, bytes(3)),
    "timestamp_information": (TIMESTAMPS, bytes(4), 0, bytes([1, 2, 1, 3])),
    "timestamp_information_filled_by_the_sender": (TIMESTAMPS, b"\xff" * 4, 0, bytes([1, 2, 1, 3])),
    "timestamp_information_malformed": (TIMESTAMPS, bytes(5), M, bytes(5)),
    # DSCP1 46 is permitted: the answer has it. DSCP2 34, ECN 1, RP 0.
    "class_of_service": (CLASS, struct.pack("!I", 46 << 26), 0, struct.pack("!I", 46 << 26 | DSCP << 20 | ECN << 18)),
    # DSCP1 10 is not: RP 1.
    "class_of_service_refused": (
        CLASS,
        struct.pack("!I", 10 << 26),
        0,
        struct.pack("!I", 10 << 26 | DSCP << 20 | ECN << 18 | 1 << 16),
    ),
    "class_of_service_filled_by_the_sender": (
        CLASS,
        struct.pack("!I", 46 << 26 | 0x03FFFFFF),
        0,
        struct.pack("!I", 46 << 26 | DSCP << 20 | ECN << 18),
    ),
    "class_of_service_malformed": (CLASS, bytes(3), M, bytes(3)),
    "direct_measurement": (DIRECT, struct.pack("!III", 4, 0, 0), 0, struct.pack("!III", 4, 5, 6)),
    "direct_measurement_filled_by_the_sender": (
        DIRECT,
        struct.pack("!III", 4, 77, 78),
        0,
        struct.pack("!III", 4, 5, 6),
    ),
    "direct_measurement_malformed": (DIRECT, bytes(11), M, bytes(11)),
    # Not understood: access networks are none of a reflector's business here.
    "access_report": (ACCESS, bytes([0x10, 1, 0, 0]), U, bytes([0x10, 1, 0, 0])),
    "access_report_of_no_known_network": (ACCESS, bytes([0x30, 1, 0, 0]), U, bytes([0x30, 1, 0, 0])),
    "access_report_malformed": (ACCESS, bytes(5), M, bytes(5)),
    "follow_up": (FOLLOW_UP, bytes(16), 0, PREVIOUS),
    "follow_up_filled_by_the_sender": (FOLLOW_UP, b"\xff" * 16, 0, PREVIOUS),
    # Section 4.7: number and time become zero (erratum 8339), whatever the length is.
    "follow_up_malformed": (FOLLOW_UP, b"\xff" * 15, M, bytes(12) + b"\xff" * 3),
    "reserved_type_0": (0, b"ab", U, b"ab"),
    "reserved_type_255": (255, b"ab", U, b"ab"),
    "unknown_type": (200, b"of a later RFC", U, b"of a later RFC"),
    "private_type": (253, struct.pack("!I", 9) + b"x", U, struct.pack("!I", 9) + b"x"),
}


def each_tlv():
    for name, (kind, asked, flags, answered) in TLVS.items():
        more = {"dscp": 46} if kind == CLASS and asked[0] >> 2 == 46 and not flags else {}
        if flags == M:
            more["malformed"] = True
        why = f"RFC 8972 section {'4' if kind not in range(1, 8) else f'4.{kind}'}"
        plain(name, why, tlv(kind, asked), tlv(kind, answered, flags), **more)
        authenticated(f"{name}_authenticated", why, tlv(kind, asked), tlv(kind, answered, flags), **more)


def flags():
    for received in [0, I, M, U | M | I, 0x1F, 0xFF]:
        plain(
            f"flags_{received:02x}_are_ignored_on_receipt",
            "RFC 8972 section 4: the reflector sets each flag anew, reserved ones to 0",
            tlv(TIMESTAMPS, bytes(4), received),
            tlv(TIMESTAMPS, bytes([1, 2, 1, 3]), 0),
        )
    plain(
        "behind_a_malformed_tlv_all_is_copied",
        "RFC 8972 section 4",
        tlv(TIMESTAMPS, bytes(4)) + tlv(DIRECT, bytes(11)) + tlv(TIMESTAMPS, bytes(4)),
        tlv(TIMESTAMPS, bytes([1, 2, 1, 3]), 0) + tlv(DIRECT, bytes(11), M) + tlv(TIMESTAMPS, bytes(4)),
        malformed=True,
    )
    plain(
        "several_of_one_type",
        "RFC 8972 section 4.1",
        tlv(PADDING, b"a") + tlv(TIMESTAMPS, bytes(4)) + tlv(PADDING, b"bc") + tlv(TIMESTAMPS, bytes(4)),
        tlv(PADDING, b"a", 0)
        + tlv(TIMESTAMPS, bytes([1, 2, 1, 3]), 0)
        + tlv(PADDING, b"bc", 0)
        + tlv(TIMESTAMPS, bytes([1, 2, 1, 3]), 0),
    )
    cut = tlv(TIMESTAMPS, bytes(4))
    for length in range(1, 8):
        plain(
            f"a_tlv_cut_to_{length}_bytes",
            "RFC 8972 section 4: less remains than the TLV's length",
            cut[:length],
            bytes([M]) + cut[1:length],
            malformed=True,
        )


def padding():
    for length in [1, 3, 4, 100]:
        plain(
            f"{length}_zeros_behind_the_base_packet",
            "RFC 8762 section 4.3: what is beyond the base packet is copied",
            bytes(length),
            bytes(length),
        )
    case(
        "session_0",
        "RFC 8762: a sender that knows no SSID has zeros in its place",
        sender(0),
        reflector(0),
    )
    # RFC 5357 section 4.1.2: random padding from byte 14 on.
    light = bytes(range(0x41, 0x41 + 27))
    case(
        "twamp_light_of_41_bytes",
        "RFC 5357 section 4.2.1, RFC 8762 section 4.6",
        sender()[:14] + light,
        reflector(int.from_bytes(light[:2], "big"))[:41],
    )
    more = light + bytes([0x5A, 0x5A, 0x5A]) + b"\xc8\xc8\x00\x02xy"
    case(
        "twamp_light_with_padding",
        "RFC 8762 section 4.6: the remainder is copied; what looks like a TLV gets flags",
        sender()[:14] + more,
        reflector(int.from_bytes(light[:2], "big")) + b"\x80" + more[31:],
    )
    dirty = bytearray(sender())
    dirty[16:44] = b"\xff" * 28
    case("zeros_that_are_none", "RFC 8762 section 4.2.1: MBZ is ignored on receipt", bytes(dirty), reflector())


def hmacs():
    ask, answer = sender(authenticated=True), reflector(authenticated=True)
    auth = {"mode": "authenticated", "key": KEY}
    case("authenticated", "RFC 8762 sections 4.2.2, 4.3.2, 4.4", close(ask), close(answer), **auth)
    case(
        "authenticated_session_0",
        "as session_0",
        close(sender(0, True)),
        close(reflector(0, True)),
        **auth,
    )
    case(
        "authenticated_only_padding",
        "RFC 8972 section 4.8: padding alone needs no HMAC TLV",
        close(ask) + tlv(PADDING, b"abc"),
        close(answer) + tlv(PADDING, b"abc", 0),
        **auth,
    )
    case(
        "authenticated_zeros",
        "zeros are no TLVs",
        close(ask) + bytes(20),
        close(answer) + bytes(20),
        **auth,
    )
    stamps, filled = tlv(TIMESTAMPS, bytes(4)), tlv(TIMESTAMPS, bytes([1, 2, 1, 3]), 0)
    behind = tlv(PADDING, b"12345")
    case(
        "padding_behind_the_hmac",
        "RFC 8972 section 4.8: only Extra Padding may follow the HMAC TLV",
        close(ask) + protect(ask, stamps, behind=behind),
        close(answer) + protect(answer, filled, 0, tlv(PADDING, b"12345", 0)),
        **auth,
    )
    case(
        "hmac_alone",
        "an HMAC of no TLVs covers the sequence number",
        close(ask) + tlv(HMAC, tag(KEY, ask[:4])),
        close(answer) + tlv(HMAC, tag(KEY, answer[:4]), 0),
        **auth,
    )
    doubt = {**auth, "doubtful": True}
    case(
        "authenticated_tlvs_without_hmac",
        "RFC 8972 section 4.8: TLVs of an authenticated session need one",
        close(ask) + stamps,
        close(answer) + tlv(TIMESTAMPS, bytes(4), I),
        **doubt,
    )
    wrong = tlv(HMAC, tag(OTHER, ask[:4], stamps))
    case(
        "authenticated_tlvs_with_another_key",
        "RFC 8972 section 4.8: all TLVs are copied with flag I",
        close(ask) + stamps + wrong,
        close(answer) + tlv(TIMESTAMPS, bytes(4), I) + bytes([I]) + wrong[1:],
        **doubt,
    )
    right = tlv(HMAC, tag(KEY, ask[:4], stamps))
    case(
        "another_tlv_behind_the_hmac",
        "RFC 8972 section 4.8: this is a verification failure",
        close(ask) + stamps + right + stamps,
        close(answer) + tlv(TIMESTAMPS, bytes(4), I) + bytes([I]) + right[1:] + tlv(TIMESTAMPS, bytes(4), I),
        **doubt,
    )
    case(
        "two_hmacs",
        "as another_tlv_behind_the_hmac",
        close(ask) + stamps + right + right,
        close(answer) + tlv(TIMESTAMPS, bytes(4), I) + 2 * (bytes([I]) + right[1:]),
        **doubt,
    )
    short = tlv(HMAC, tag(KEY, ask[:4], stamps)[:15])
    case(
        "an_hmac_of_15_bytes",
        "RFC 8972 section 4.8: the length is 16",
        close(ask) + stamps + short,
        close(answer) + tlv(TIMESTAMPS, bytes(4), I) + bytes([I]) + short[1:],
        **doubt,
    )
    # Unauthenticated with a key: the TLVs are protected, the base packet is not.
    case(
        "unauthenticated_with_hmac",
        "RFC 8972 section 4.8: the HMAC TLV may protect TLVs of an unauthenticated session",
        sender() + protect(sender(), stamps),
        reflector() + protect(reflector(), filled, 0),
        key=KEY,
    )
    case(
        "unauthenticated_without_the_hmac_that_the_key_asks_for",
        "RFC 8972 section 4.8: a control that enables the protection; the key is it",
        sender() + stamps,
        reflector() + tlv(TIMESTAMPS, bytes(4), I),
        key=KEY,
        doubtful=True,
    )
    case(
        "an_hmac_without_a_key_for_it",
        "what cannot be verified has failed verification",
        sender() + protect(sender(), stamps),
        reflector() + tlv(TIMESTAMPS, bytes(4), I) + bytes([I]) + protect(sender(), stamps)[9:],
        doubtful=True,
    )


def beside_scapy():
    """Each unauthenticated request with whole TLVs, written by Scapy."""
    try:
        from scapy.contrib import stamp
    except ImportError:
        return "not there"
    epoch = T1 / 2**32
    count = 0
    for name, (kind, asked, _, _) in TLVS.items():
        wanted = sender() + tlv(kind, asked)
        made = stamp.STAMPSessionSenderTestUnauthenticated(
            seq=SEQUENCE,
            ts=epoch,
            err_estimate=stamp.ErrorEstimate(S=0, Z=0, scale=3, multiplier=9),
            ssid=SSID,
            tlv_objects=[stamp.STAMPTestTLV(flags=U, type=kind, len=len(asked), value=asked)],
        )
        assert bytes(made) == wanted, f"{name}: {bytes(made).hex()} is not {wanted.hex()}"
        count += 1
    return f"{count} requests agree"


if __name__ == "__main__":
    each_tlv()
    flags()
    padding()
    hmacs()
    print(f"scapy: {beside_scapy()}", file=sys.stderr)
    for one in CASES:
        if one["key"] is None:
            del one["key"]
    print("[\n" + ",\n".join(json.dumps(one) for one in CASES) + "\n]")
