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

mod doubt;
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
