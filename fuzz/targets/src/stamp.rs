//! STAMP: what a reflector makes of any packet, and what a sender makes of any answer.

use std::net::{IpAddr, SocketAddr};

use lpm_agent::active::mac::Key;
use lpm_common::stamp::{
    ErrorEstimate, Mac as _, Mode, ReflectorPacket, SHORTEST, SenderPacket, Timestamp,
    agent::{AgentInfo, StampSource},
    reflect::{Facts, FollowUp, Reflected, Refusal, Stamping, reflect},
    reply::{self, Reply},
    session_number,
    tlv::{HEADER, Tlvs, flag, kind, length_is_valid},
};

/// Bytes before the packet: what the input chooses beside it.
const HEAD: usize = 4;

/// What the first bytes of an input choose.
struct Choice {
    mode: Mode,
    key: Option<Key>,
    /// Whether the packet gets the HMACs that its sender would write.
    is_signed: bool,
    facts: Facts,
}

impl Choice {
    fn read([bits, dscp, number, changes]: [u8; HEAD]) -> Self {
        let has = |bit: u8| bits >> bit & 1 == 1;
        let mode = if has(0) {
            Mode::Authenticated
        } else {
            Mode::Unauthenticated
        };
        let source = if has(3) {
            IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1])
        } else {
            IpAddr::from([198, 18, 0, 1])
        };
        let previous = FollowUp {
            sequence: u32::from(number),
            timestamp: Timestamp(0xee8c_f0a1_6000_0000),
            method: changes & 3,
        };
        let facts = Facts {
            receive: Timestamp(0xee8c_f0a1_7fb0_0000),
            send: Timestamp(0xee8c_f0a1_8000_0000),
            error: ErrorEstimate(0x8c4d),
            stamping: Stamping {
                source_in: 1,
                method_in: 2,
                source_out: 1,
                method_out: 3,
            },
            ttl: number,
            dscp: dscp & 0x3f,
            ecn: dscp >> 6,
            source: SocketAddr::new(source, 40000),
            destination: SocketAddr::new(source, 862),
            sequence: has(4).then_some(u32::from(number)),
            previous: has(5).then_some(previous),
            counters: [5, 6],
            agent: AgentInfo {
                receive: StampSource::Kernel,
                previous: StampSource::Hardware,
                clock_changes: u16::from(changes),
                drift: 500_000,
            },
            permitted: if has(6) { u64::MAX } else { 1 << 46 },
        };
        Self {
            mode,
            key: has(1).then(|| Key::new(b"a key of sixteen")),
            is_signed: has(2),
            facts,
        }
    }

    /// Writes into a packet the HMACs that its sender would write, where there is room for them.
    fn sign(&self, packet: &mut [u8]) {
        let Some(key) = self.key.as_ref().filter(|_| self.is_signed) else {
            return;
        };
        let base = self.mode.base();
        let row = packet.get(base..).unwrap_or_default();
        let found = Tlvs::new(row).map_while(Result::ok);
        let hmac = found
            .filter(|tlv| tlv.kind == kind::HMAC && tlv.value.len() == 16)
            .map(|tlv| tlv.at)
            .next();
        if let Some(at) = hmac {
            let tag = key.tag(&[&packet[..4], &packet[base..base + at]]);
            packet[base + at + HEADER..][..16].copy_from_slice(&tag);
        }
        if let Some(covered) = self.mode.covered()
            && packet.len() >= base
        {
            let tag = key.tag(&[&packet[..covered]]);
            packet[covered..base].copy_from_slice(&tag);
        }
    }

    fn reflect(&self, packet: &[u8]) -> Result<(Vec<u8>, Reflected), Refusal> {
        // What was in the buffer before must not leave.
        let mut answer = vec![0xa5; packet.len() + 64];
        let key = self.key.as_ref();
        let reflected = reflect(packet, self.mode, key, &self.facts, &mut answer)?;
        assert_eq!(reflected.length, packet.len(), "as long as the packet");
        assert!(answer[reflected.length..].iter().all(|byte| *byte == 0xa5));
        answer.truncate(reflected.length);
        Ok((answer, reflected))
    }
}

/// Any bytes as a packet to a reflector, in both modes, with and without a key, and as an answer to a
/// sender.
///
/// An answer is as long as its packet, is valid for the sender, has the packet's numbers, no byte that
/// is neither the packet's nor the reflector's, and flags as RFC 8972 section 4 has them. Its own
/// answer is the same.
pub fn stamp(data: &[u8]) {
    let Some((head, packet)) = data.split_first_chunk::<HEAD>() else {
        return;
    };
    let choice = Choice::read(*head);
    let (mode, key) = (choice.mode, choice.key.as_ref());
    // As an answer.
    let _ = reply::read(packet, mode, key);
    let mut packet = packet.to_vec();
    choice.sign(&mut packet);
    let (answer, reflected) = match choice.reflect(&packet) {
        Ok(answered) => answered,
        Err(refusal) => return refused(&choice, &packet, refusal),
    };
    let read = reply::read(&answer, mode, key).expect("an answer is valid for its sender");
    base_is_right(&choice, &packet, &read.packet);
    row_is_right(&choice, &packet, &answer, reflected, &read);
    again(&choice, &answer, reflected);
}

/// A packet is refused for what is wrong with it.
fn refused(choice: &Choice, packet: &[u8], refusal: Refusal) {
    let is_authenticated = choice.mode == Mode::Authenticated;
    match refusal {
        Refusal::Short => assert!(packet.len() < choice.mode.base().max(SHORTEST)),
        Refusal::Long => panic!("there was room"),
        Refusal::NoKey => assert!(is_authenticated && choice.key.is_none()),
        Refusal::Forged => assert!(is_authenticated && !choice.is_signed),
    }
}

fn base_is_right(choice: &Choice, packet: &[u8], answer: &ReflectorPacket) {
    let sender = SenderPacket::read(packet, choice.mode).expect("a whole packet");
    let facts = &choice.facts;
    assert_eq!(answer.sequence, facts.sequence.unwrap_or(sender.sequence));
    assert_eq!(
        (answer.receive, answer.timestamp),
        (facts.receive, facts.send)
    );
    assert_eq!(
        (
            answer.sender_sequence,
            answer.sender_timestamp,
            answer.sender_error
        ),
        (sender.sequence, sender.timestamp, sender.error)
    );
    assert_eq!((answer.session, answer.ttl), (sender.session, facts.ttl));
    let number = session_number(packet, choice.mode);
    assert!(number == Some(0) || number == Some(sender.session));
}

fn row_is_right(choice: &Choice, packet: &[u8], answer: &[u8], reflected: Reflected, read: &Reply) {
    let base = choice.mode.base();
    let row = |bytes: &'_ [u8]| bytes.get(base..).unwrap_or_default().to_vec();
    let (before, after) = (row(packet), row(answer));
    let extensions = &read.extensions;
    if reflected.is_doubtful {
        assert!(extensions.is_doubtful || before.len() < HEADER);
    } else {
        // Behind a malformed TLV flags are copied, also a flag I that no sender sets.
        assert!(!extensions.is_doubtful || reflected.is_malformed);
        if !extensions.is_doubtful {
            assert_eq!(reflected.is_malformed, extensions.is_malformed);
        }
    }
    if before.iter().all(|byte| *byte == 0) {
        assert_eq!(before, after, "zeros are no TLVs");
        return;
    }
    let (mut malformed, mut hmacs) = (false, 0);
    for (asked, answered) in Tlvs::new(&before).zip(Tlvs::new(&after)) {
        let (Ok(asked), Ok(answered)) = (asked, answered) else {
            break;
        };
        assert_eq!((asked.at, asked.kind), (answered.at, answered.kind));
        assert_eq!(asked.value.len(), answered.value.len());
        hmacs += usize::from(asked.kind == kind::HMAC);
        if malformed {
            assert_eq!(asked.flags, answered.flags, "the remainder is copied");
            continue;
        }
        assert_eq!(answered.flags & 0x1f, 0, "reserved flags");
        assert_eq!(
            answered.flags & flag::INTEGRITY != 0,
            reflected.is_doubtful,
            "flag I"
        );
        let is_valid = length_is_valid(asked.kind, asked.value.len());
        if !reflected.is_doubtful {
            malformed = answered.flags & flag::MALFORMED != 0;
            assert_eq!(malformed, is_valid == Some(false), "flag M");
        }
        let unrecognized = answered.flags & flag::UNRECOGNIZED != 0;
        if reflected.is_doubtful || unrecognized || asked.kind == kind::EXTRA_PADDING {
            assert_eq!(asked.value, answered.value, "{}", asked.kind);
        }
        if is_valid.is_none() && asked.kind != kind::AGENT {
            assert!(unrecognized, "{}", asked.kind);
        }
    }
    assert!(reflected.is_doubtful || hmacs <= 1 || malformed);
    if reflected.is_doubtful {
        assert_eq!(reflected.dscp, choice.facts.dscp, "nothing is done for it");
    }
}

/// Reflects an answer, as a second reflector on the way would: the TLVs stay as they are, but a
/// Location TLV, whose sub-TLVs are answers by then.
fn again(choice: &Choice, answer: &[u8], first: Reflected) {
    let (second, reflected) = choice.reflect(answer).expect("an answer is a valid packet");
    let row = |bytes: &'_ [u8]| bytes.get(choice.mode.base()..).unwrap_or_default().to_vec();
    assert_eq!(reflected.is_doubtful, first.is_doubtful);
    assert_eq!(reflected.is_malformed, first.is_malformed);
    let rest = row(answer);
    let located = Tlvs::new(&rest).map_while(Result::ok);
    if !located.into_iter().any(|tlv| tlv.kind == kind::LOCATION) {
        assert_eq!(row(&second), rest);
    }
}
