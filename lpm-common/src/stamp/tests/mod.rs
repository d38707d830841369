//! Packets byte by byte. The vectors were made with Scapy 2.8.0 (`contrib.stamp`) and by hand from
//! the figures of RFC 8762 and RFC 8972; Scapy's flags of TLVs were turned round (RFC 8972 section
//! 5.2 has flag U as the highest bit).

use std::{net::SocketAddr, string::String, vec, vec::Vec};

use hmac::{Hmac, KeyInit, Mac as _};
use proptest::prelude::*;
use sha2::Sha256;

use super::{
    ErrorEstimate, Format, Mac, Mode, ReflectorPacket, SenderPacket, Timestamp,
    agent::{AgentInfo, StampSource},
    packet::session_number,
    reflect::{Facts, FollowUp, Reflected, Refusal, Stamping, method, reflect},
    reply::{self, Class, Location},
    tlv::{Tlvs, Writer, flag, kind},
};

mod vectors;

/// 28 October 2026, 22:07:29.5 UTC.
const NOW: u64 = 1_793_225_249_500_000_000;

struct Key(&'static [u8]);

impl Key {
    fn hmac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut hmac = Hmac::new_from_slice(self.0).expect("any length is a key");
        for part in parts {
            hmac.update(part);
        }
        hmac
    }
}

impl Mac for Key {
    fn tag(&self, parts: &[&[u8]]) -> [u8; 16] {
        let whole = self.hmac(parts).finalize().into_bytes();
        whole[..16].try_into().expect("16 of 32 bytes")
    }

    fn verify(&self, parts: &[&[u8]], tag: &[u8; 16]) -> bool {
        self.hmac(parts).verify_truncated_left(tag).is_ok()
    }
}

const KEY: Option<&Key> = Some(&Key(b"a key of this session"));
const NO_KEY: Option<&Key> = None;

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn facts() -> Facts {
    Facts {
        receive: Timestamp(0xee8c_f0a1_7fb0_0000),
        send: Timestamp(0xee8c_f0a1_8000_0000),
        error: ErrorEstimate(0x8c4d),
        stamping: Stamping {
            source_in: 1,
            method_in: method::SOFTWARE,
            source_out: 1,
            method_out: method::CONTROL_PLANE,
        },
        ttl: 63,
        dscp: 34,
        ecn: 1,
        source: SocketAddr::from(([198, 18, 1, 2], 40000)),
        destination: SocketAddr::from(([198, 18, 2, 2], 862)),
        sequence: Some(9),
        previous: Some(FollowUp {
            sequence: 8,
            timestamp: Timestamp(0xee8c_f0a1_6000_0000),
            method: method::SOFTWARE,
        }),
        counters: [5, 6],
        agent: AgentInfo {
            receive: StampSource::Kernel,
            previous: StampSource::Hardware,
            clock_changes: 3,
            drift: 500_000,
        },
        permitted: 1 << 46,
    }
}

fn sender(sequence: u32) -> SenderPacket {
    SenderPacket {
        sequence,
        timestamp: Timestamp(0xee8c_f0a1_0000_0000),
        error: ErrorEstimate(0x0309),
        session: 0x1234,
    }
}

/// A packet with TLVs.
fn packet(mode: Mode, tlvs: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; 1500];
    sender(7).write(mode, &mut bytes);
    let mut writer = Writer::new(&mut bytes, mode.base());
    for (kind, value) in tlvs {
        writer.push(*kind, value).expect("room for the TLV");
    }
    let length = writer.length();
    bytes.truncate(length);
    bytes
}

/// Signs a packet as a sender does: an HMAC TLV, then the base packet's HMAC.
fn signed(mode: Mode, tlvs: &[(u8, &[u8])]) -> Vec<u8> {
    let key = KEY.expect("the key");
    let mut bytes = packet(mode, tlvs);
    if !tlvs.is_empty() {
        let tag = key.tag(&[&bytes[..4], &bytes[mode.base()..]]);
        bytes.extend([flag::UNRECOGNIZED, kind::HMAC, 0, 16]);
        bytes.extend(tag);
    }
    if let Some(covered) = mode.covered() {
        let tag = key.tag(&[&bytes[..covered]]);
        bytes[covered..covered + 16].copy_from_slice(&tag);
    }
    bytes
}

fn answer_to(
    request: &[u8],
    mode: Mode,
    key: Option<&Key>,
    facts: &Facts,
) -> Result<(Vec<u8>, Reflected), Refusal> {
    let mut answer = vec![0xaa; 2048];
    let reflected = reflect(request, mode, key, facts, &mut answer)?;
    answer.truncate(reflected.length);
    Ok((answer, reflected))
}

fn flags_of(row: &[u8]) -> Vec<u8> {
    Tlvs::new(row)
        .map(|tlv| tlv.expect("a whole TLV").flags)
        .collect()
}

#[test]
fn unauthenticated_packets_are_those_of_another_implementation() {
    let from_sender = hex("00000007 ee8cf0a180000000 8c4d 1234 \
         00000000000000000000000000000000000000000000000000000000");
    let read = SenderPacket::read(&from_sender, Mode::Unauthenticated).expect("44 bytes");
    assert_eq!(read.sequence, 7);
    assert_eq!(read.timestamp.to_unix(Format::Ntp, NOW), Some(NOW));
    assert!(read.error.is_synchronized());
    assert_eq!(read.session, 0x1234);
    let mut written = [0xaa; 44];
    read.write(Mode::Unauthenticated, &mut written);
    assert_eq!(written.as_slice(), from_sender);

    let from_reflector = hex("00000009 ee8cf0a180000000 8c4d 1234 ee8cf0a17fb00000 \
         00000007 ee8cf0a100000000 0309 0000 3f 000000");
    let (answer, _) =
        answer_to(&from_sender, Mode::Unauthenticated, NO_KEY, &facts()).expect("an answer");
    let mut expected = from_reflector.clone();
    // The sender's timestamp and estimate are copies.
    expected[28..38].copy_from_slice(&from_sender[4..14]);
    assert_eq!(answer, expected);
    let read = ReflectorPacket::read(&from_reflector, Mode::Unauthenticated).expect("44 bytes");
    assert_eq!((read.sequence, read.sender_sequence, read.ttl), (9, 7, 63));
}

/// RFC 8972 figures 3 and 4.
#[test]
fn authenticated_packets_have_their_fields_in_blocks_of_16() {
    let request = signed(Mode::Authenticated, &[]);
    let mut expected = hex("00000007 000000000000000000000000 ee8cf0a100000000 0309 1234 00000000");
    expected.resize(96, 0);
    assert_eq!(request[..96], expected);
    assert_eq!(request.len(), 112);

    let (answer, _) = answer_to(&request, Mode::Authenticated, KEY, &facts()).expect("an answer");
    let expected = hex("00000009 000000000000000000000000 \
         ee8cf0a180000000 8c4d 1234 00000000 \
         ee8cf0a17fb00000 0000000000000000 \
         00000007 000000000000000000000000 \
         ee8cf0a100000000 0309 000000000000 \
         3f 000000000000000000000000000000");
    assert_eq!(answer[..96], expected);
    let tag = answer[96..112].try_into().expect("16 bytes");
    assert!(KEY.expect("the key").verify(&[&answer[..96]], &tag));
    let read = reply::read(&answer, Mode::Authenticated, KEY).expect("a valid answer");
    assert_eq!(read.packet.sequence, 9);
}

#[test]
fn a_forged_packet_gets_no_answer() {
    let good = signed(Mode::Authenticated, &[]);
    for at in 0..112 {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        let answer = answer_to(&bad, Mode::Authenticated, KEY, &facts());
        assert_eq!(answer.err(), Some(Refusal::Forged), "byte {at}");
    }
    let answer = answer_to(&good, Mode::Authenticated, NO_KEY, &facts());
    assert_eq!(answer.err(), Some(Refusal::NoKey));
    let answer = answer_to(&good[..111], Mode::Authenticated, KEY, &facts());
    assert_eq!(answer.err(), Some(Refusal::Short));
}

/// RFC 8762 section 4.6 would answer a shorter packet with a longer one.
#[test]
fn a_packet_of_twamp_light_is_answered_from_41_bytes_on() {
    let request = packet(Mode::Unauthenticated, &[]);
    for length in 0..=44 {
        let answer = answer_to(&request[..length], Mode::Unauthenticated, NO_KEY, &facts());
        if length < 41 {
            assert_eq!(answer.err(), Some(Refusal::Short), "{length} bytes");
        } else {
            let (answer, _) = answer.expect("an answer");
            assert_eq!(answer.len(), length);
            assert_eq!(answer[40], 63, "the TTL");
        }
    }
}

#[test]
fn without_state_the_sequence_number_is_the_senders() {
    let facts = Facts {
        sequence: None,
        ..facts()
    };
    let request = packet(
        Mode::Unauthenticated,
        &[(kind::FOLLOW_UP_TELEMETRY, &[0; 16])],
    );
    let (answer, _) =
        answer_to(&request, Mode::Unauthenticated, NO_KEY, &facts).expect("an answer");
    assert_eq!(answer[..4], [0, 0, 0, 7]);
    assert_eq!(
        answer[48..],
        [0; 16],
        "no time of sending (RFC 8972 section 4.7)"
    );
    let read = reply::read(&answer, Mode::Unauthenticated, NO_KEY).expect("an answer");
    assert_eq!(read.extensions.previous, None);
}

#[test]
fn each_tlv_is_answered_byte_by_byte() {
    // DSCP1 46, which is permitted.
    let class = [46 << 2, 0, 0, 0];
    let location = hex("00000000 \
         80010008 0000000000000000 \
         80040010 00000000000000000000000000000000 \
         80070010 00000000000000000000000000000000 \
         80630002 abcd");
    let request = packet(
        Mode::Unauthenticated,
        &[
            (kind::FOLLOW_UP_TELEMETRY, &[0; 16]),
            (kind::CLASS_OF_SERVICE, &class),
            (kind::TIMESTAMP_INFORMATION, &[0; 4]),
            (
                kind::DIRECT_MEASUREMENT,
                &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0],
            ),
            (kind::LOCATION, &location),
            (kind::ACCESS_REPORT, &[0x10, 1, 0, 0]),
            (200, b"what a later RFC has"),
            (kind::EXTRA_PADDING, b"abc"),
        ],
    );
    let (answer, reflected) =
        answer_to(&request, Mode::Unauthenticated, NO_KEY, &facts()).expect("an answer");
    assert_eq!(
        reflected,
        Reflected {
            length: request.len(),
            dscp: 46,
            is_doubtful: false,
            is_malformed: false,
        }
    );
    let mut expected = hex("00070010 00000008 ee8cf0a160000000 02000000 \
         00040004 ba240000 \
         00030004 01020103 \
         0005000c 00000004 00000005 00000006 \
         0002003e 035e9c40 \
         00030008 0000000000000000 \
         00050010 c6120202000000000000000000000000 \
         00080010 c6120102000000000000000000000000 \
         80630002 abcd \
         80060004 10010000 \
         80c80014");
    expected.extend(b"what a later RFC has");
    expected.extend(hex("00010003 616263"));
    assert_eq!(answer[44..], expected);

    let read = reply::read(&answer, Mode::Unauthenticated, NO_KEY).expect("an answer");
    let extensions = read.extensions;
    assert_eq!(extensions.previous, facts().previous);
    assert_eq!(extensions.stamping, Some(facts().stamping));
    let seen = Class {
        dscp: 34,
        ecn: 1,
        is_refused: false,
    };
    assert_eq!(extensions.class, Some(seen));
    assert_eq!(extensions.counters, Some([4, 5, 6]));
    let location = Location {
        destination_port: 862,
        source_port: 40000,
        destination: Some(facts().destination.ip()),
        source: Some(facts().source.ip()),
    };
    assert_eq!(extensions.location, Some(location));
    assert_eq!(extensions.unrecognized, 2);
    assert!(!extensions.is_malformed && !extensions.is_doubtful);
}

#[test]
fn an_agent_says_more_of_its_times() {
    let ask = AgentInfo::question();
    let other = [0; 12];
    let tlvs: [(u8, &[u8]); 2] = [(kind::AGENT, &ask), (kind::AGENT, &other)];
    let request = packet(Mode::Unauthenticated, &tlvs);
    let (answer, _) =
        answer_to(&request, Mode::Unauthenticated, NO_KEY, &facts()).expect("an answer");
    let expected = hex("00fb000c 4c504d01 02010003 0007a120 80fb000c 00000000 00000000 00000000");
    assert_eq!(answer[44..], expected);
    let read = reply::read(&answer, Mode::Unauthenticated, NO_KEY).expect("an answer");
    assert_eq!(read.extensions.agent, Some(facts().agent));
    // A reflector that is none copies the TLV with flag U.
    let read = reply::read(&request, Mode::Unauthenticated, NO_KEY).expect("an answer");
    assert_eq!(read.extensions.agent, None);
}

#[test]
fn a_dscp_that_is_not_permitted_is_refused_in_the_answer() {
    let request = packet(
        Mode::Unauthenticated,
        &[(kind::CLASS_OF_SERVICE, &[10 << 2, 0, 0, 0])],
    );
    let (answer, reflected) =
        answer_to(&request, Mode::Unauthenticated, NO_KEY, &facts()).expect("an answer");
    assert_eq!(reflected.dscp, 34, "the DSCP that arrived");
    let read = reply::read(&answer, Mode::Unauthenticated, NO_KEY).expect("an answer");
    let class = Class {
        dscp: 34,
        ecn: 1,
        is_refused: true,
    };
    assert_eq!(read.extensions.class, Some(class));
}

/// RFC 8972 section 4: what follows a malformed TLV is copied.
#[test]
fn a_malformed_tlv_ends_the_processing() {
    for (kind, length) in [(3, 3), (4, 5), (5, 11), (7, 15), (8, 15), (2, 3)] {
        let value = vec![0xee; length];
        let tlvs: [(u8, &[u8]); 2] = [(kind, &value), (kind::TIMESTAMP_INFORMATION, &[0; 4])];
        let request = packet(Mode::Unauthenticated, &tlvs);
        let (answer, reflected) =
            answer_to(&request, Mode::Unauthenticated, NO_KEY, &facts()).expect("an answer");
        // A wrong HMAC TLV is an HMAC that cannot be verified.
        if kind == kind::HMAC {
            assert!(reflected.is_doubtful);
            continue;
        }
        assert_eq!(
            flags_of(&answer[44..]),
            [flag::MALFORMED, flag::UNRECOGNIZED],
            "{kind}"
        );
        assert_eq!(answer[answer.len() - 4..], [0; 4], "{kind}");
        let read = reply::read(&answer, Mode::Unauthenticated, NO_KEY).expect("an answer");
        assert!(read.extensions.is_malformed);
        assert_eq!(read.extensions.stamping, None);
    }
    // A TLV that is longer than the packet, and a header that is cut short.
    for cut in 1..8 {
        let request = packet(
            Mode::Unauthenticated,
            &[(kind::TIMESTAMP_INFORMATION, &[1; 4])],
        );
        let request = &request[..request.len() - cut];
        let (answer, _) =
            answer_to(request, Mode::Unauthenticated, NO_KEY, &facts()).expect("an answer");
        assert_eq!(answer.len(), request.len());
        assert_eq!(answer[44], flag::MALFORMED);
    }
}

/// A peer of TWAMP-Light pads with random bytes, which are no session number.
#[test]
fn random_padding_is_no_session() {
    let number = |bytes: &[u8], mode| session_number(bytes, mode);
    let mut light = packet(Mode::Unauthenticated, &[]);
    assert_eq!(number(&light, Mode::Unauthenticated), Some(0x1234));
    light[43] = 1;
    assert_eq!(number(&light, Mode::Unauthenticated), Some(0));
    assert_eq!(number(&light[..41], Mode::Unauthenticated), Some(0x1234));
    light[16] = 1;
    assert_eq!(number(&light[..41], Mode::Unauthenticated), Some(0));
    assert_eq!(number(&light[..15], Mode::Unauthenticated), None);
    // Beyond the base packet are TLVs.
    let tlvs = packet(Mode::Unauthenticated, &[(kind::EXTRA_PADDING, &[9; 9])]);
    assert_eq!(number(&tlvs, Mode::Unauthenticated), Some(0x1234));
    let mut signed = signed(Mode::Authenticated, &[]);
    signed[40] = 1;
    assert_eq!(number(&signed, Mode::Authenticated), Some(0x1234));
}

/// Who has no key must not get his TLVs signed: the answer would be a valid request.
#[test]
fn doubtful_tlvs_get_no_hmac() {
    let key = KEY.expect("the key");
    for mode in [Mode::Unauthenticated, Mode::Authenticated] {
        let mut request = signed(mode, &[(kind::CLASS_OF_SERVICE, &[46 << 2, 0, 0, 0])]);
        let at = request.len() - 16;
        request[at..].fill(0xee);
        let (answer, reflected) = answer_to(&request, mode, KEY, &facts()).expect("an answer");
        assert!(reflected.is_doubtful);
        assert_eq!(answer[at..], [0xee; 16]);
        let right = key.tag(&[&answer[..4], &answer[mode.base()..at - 4]]);
        assert_ne!(answer[at..], right);
    }
}

#[test]
fn zeros_behind_the_base_packet_stay_zeros() {
    let mut request = packet(Mode::Unauthenticated, &[]);
    request.resize(200, 0);
    let (answer, _) =
        answer_to(&request, Mode::Unauthenticated, NO_KEY, &facts()).expect("an answer");
    assert_eq!(answer[44..], [0; 156]);
}

#[test]
fn tlvs_are_believed_only_under_the_right_hmac() {
    let asks: [(u8, &[u8]); 1] = [(kind::TIMESTAMP_INFORMATION, &[0; 4])];
    for mode in [Mode::Unauthenticated, Mode::Authenticated] {
        let good = signed(mode, &asks);
        let (answer, reflected) = answer_to(&good, mode, KEY, &facts()).expect("an answer");
        assert!(!reflected.is_doubtful);
        let read = reply::read(&answer, mode, KEY).expect("a valid answer");
        assert_eq!(read.extensions.stamping, Some(facts().stamping));
        let other = Some(&Key(b"another key"));
        if mode == Mode::Unauthenticated {
            let read = reply::read(&answer, mode, other).expect("an answer");
            assert!(read.extensions.is_doubtful && read.extensions.stamping.is_none());
        }
        // Changed on the way: the TLVs come back as they were, with flag I.
        let mut bad = good.clone();
        bad[mode.base() + 4] ^= 1;
        let (answer, reflected) = answer_to(&bad, mode, KEY, &facts()).expect("an answer");
        assert!(reflected.is_doubtful);
        assert_eq!(flags_of(&answer[mode.base()..]), [flag::INTEGRITY; 2]);
        assert_eq!(answer[mode.base() + 4..][..4], bad[mode.base() + 4..][..4]);
        let read = reply::read(&answer, mode, KEY).expect("an answer");
        assert!(read.extensions.is_doubtful && read.extensions.stamping.is_none());
    }
    // An authenticated packet's TLVs need an HMAC, padding alone does not (section 4.8).
    let mut bare = signed(Mode::Authenticated, &asks);
    bare.truncate(112 + 8);
    let (_, reflected) = answer_to(&bare, Mode::Authenticated, KEY, &facts()).expect("an answer");
    assert!(reflected.is_doubtful);
    let mut padded = signed(Mode::Authenticated, &[]);
    padded.extend([flag::UNRECOGNIZED, kind::EXTRA_PADDING, 0, 2, 1, 2]);
    let (answer, reflected) =
        answer_to(&padded, Mode::Authenticated, KEY, &facts()).expect("an answer");
    assert!(!reflected.is_doubtful);
    assert_eq!(answer[112..], [0, kind::EXTRA_PADDING, 0, 2, 1, 2]);
}

#[test]
fn an_hmac_that_other_tlvs_follow_is_no_hmac() {
    let mut request = signed(
        Mode::Unauthenticated,
        &[(kind::TIMESTAMP_INFORMATION, &[0; 4])],
    );
    let mut padded = request.clone();
    padded.extend([flag::UNRECOGNIZED, kind::EXTRA_PADDING, 0, 1, 9]);
    let answer = answer_to(&padded, Mode::Unauthenticated, KEY, &facts());
    assert!(!answer.expect("an answer").1.is_doubtful);
    request.extend([
        flag::UNRECOGNIZED,
        kind::CLASS_OF_SERVICE,
        0,
        4,
        184,
        0,
        0,
        0,
    ]);
    let (_, reflected) =
        answer_to(&request, Mode::Unauthenticated, KEY, &facts()).expect("an answer");
    assert!(reflected.is_doubtful);
    assert_eq!(reflected.dscp, 34, "nothing is done for it");
}

proptest! {
    /// Whatever a peer sends, the answer is as long, and reading it does not panic.
    #[test]
    fn no_answer_is_longer_than_its_packet(
        head in proptest::collection::vec(any::<u8>(), 0..130),
        tlvs in proptest::collection::vec((any::<u8>(), 0_u8..12, 0_usize..40), 0..6),
        cut in 0_usize..8,
        is_authenticated in any::<bool>(),
    ) {
        let mode = if is_authenticated { Mode::Authenticated } else { Mode::Unauthenticated };
        let mut request = head;
        for (flags, kind, length) in tlvs {
            request.extend([flags, kind, 0, u8::try_from(length).expect("below 256")]);
            request.extend(vec![flags; length]);
        }
        request.truncate(request.len().saturating_sub(cut));
        if let Some(covered) = mode.covered() && request.len() >= mode.base() {
            let tag = KEY.expect("the key").tag(&[&request[..covered]]);
            request[covered..covered + 16].copy_from_slice(&tag);
        }
        if let Ok((answer, _)) = answer_to(&request, mode, KEY, &facts()) {
            prop_assert_eq!(answer.len(), request.len());
            let _ = reply::read(&answer, mode, KEY);
            let _ = reply::read(&request, mode, NO_KEY);
        }
    }
}
