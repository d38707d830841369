//! What a Session-Sender reads from an answer: the base packet, and the TLVs as far as their flags
//! allow (RFC 8972 section 4).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Mode, ReflectorPacket, Timestamp,
    agent::AgentInfo,
    array,
    location::place,
    protection::{Mac, Protection, verify_base},
    reflect::{FollowUp, Refusal, Stamping},
    tlv::{self, Tlvs, flag, kind},
};

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The base packet.
    pub packet: ReflectorPacket,
    /// What the TLVs say.
    pub extensions: Extensions,
}

/// What the TLVs of an answer say. What a reflector did not tell is None.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// The time of sending of an earlier answer.
    pub previous: Option<FollowUp>,
    /// How the reflector gets its timestamps.
    pub stamping: Option<Stamping>,
    /// The DSCP and ECN that arrived at the reflector.
    pub class: Option<Class>,
    /// Counters of the measured traffic: sent by the sender, received and sent by the reflector.
    pub counters: Option<[u32; 3]>,
    /// The addresses that the reflector saw.
    pub location: Option<Location>,
    /// What an agent says of its times. None: the reflector is not an agent.
    pub agent: Option<AgentInfo>,
    /// TLVs whose type the reflector does not know.
    pub unrecognized: u16,
    /// The reflector, or this end, found a TLV malformed. What follows it was not read.
    pub is_malformed: bool,
    /// The HMAC of the TLVs is wrong, here or at the reflector. Nothing was read.
    pub is_doubtful: bool,
}

/// DSCP and ECN as they arrived at the reflector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// DSCP, 6 bits.
    pub dscp: u8,
    /// ECN, 2 bits.
    pub ecn: u8,
    /// The reflector's policy did not permit the DSCP that the answer was to have.
    pub is_refused: bool,
}

/// Addresses as the reflector saw them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The UDP port that the packet came to.
    pub destination_port: u16,
    /// The UDP port that it came from.
    pub source_port: u16,
    /// The address that it came to.
    pub destination: Option<IpAddr>,
    /// The address that it came from.
    pub source: Option<IpAddr>,
}

/// Reads an answer. `mac` has the session's key.
///
/// # Errors
/// [`Refusal`]: why the answer counts for nothing.
pub fn read<M: Mac>(bytes: &[u8], mode: Mode, mac: Option<&M>) -> Result<Reply, Refusal> {
    let packet = ReflectorPacket::read(bytes, mode).ok_or(Refusal::Short)?;
    verify_base(bytes, mode, mac)?;
    let row = bytes.get(mode.base()..).unwrap_or_default();
    let mut extensions = Extensions {
        is_doubtful: !Protection::of(row).holds(bytes, row, mode, mac)
            || Tlvs::new(row)
                .flatten()
                .any(|tlv| tlv.flags & flag::INTEGRITY != 0),
        ..Extensions::default()
    };
    if !extensions.is_doubtful {
        extensions.read(row);
    }
    Ok(Reply { packet, extensions })
}

impl Extensions {
    fn read(&mut self, row: &[u8]) {
        if row.iter().all(|byte| *byte == 0) {
            return;
        }
        for tlv in Tlvs::new(row) {
            let Ok(tlv) = tlv else {
                self.is_malformed = true;
                return;
            };
            if tlv.flags & flag::UNRECOGNIZED != 0 {
                self.unrecognized = self.unrecognized.saturating_add(1);
                continue;
            }
            let is_valid = tlv::length_is_valid(tlv.kind, tlv.value.len());
            if tlv.flags & flag::MALFORMED != 0 || is_valid == Some(false) {
                self.is_malformed = true;
                return;
            }
            self.take(tlv.kind, tlv.value);
        }
    }

    /// Takes the value of a TLV whose length is right.
    fn take(&mut self, kind: u8, value: &[u8]) {
        let word = |at| array(value, at).map_or(0, u32::from_be_bytes);
        match (kind, value) {
            (kind::LOCATION, _) => self.location = Location::read(value),
            (kind::TIMESTAMP_INFORMATION, &[source_in, method_in, source_out, method_out]) => {
                self.stamping = Some(Stamping {
                    source_in,
                    method_in,
                    source_out,
                    method_out,
                });
            }
            (kind::CLASS_OF_SERVICE, &[first, second, ..]) => {
                self.class = Some(Class {
                    dscp: (first & 3) << 4 | second >> 4,
                    ecn: second >> 2 & 3,
                    is_refused: second & 3 != 0,
                });
            }
            (kind::DIRECT_MEASUREMENT, _) => self.counters = Some([word(0), word(4), word(8)]),
            (kind::FOLLOW_UP_TELEMETRY, _) => {
                let timestamp = Timestamp(array(value, 4).map_or(0, u64::from_be_bytes));
                // A reflector that knows no time of sending leaves zeros.
                self.previous = (timestamp != Timestamp::default()).then(|| FollowUp {
                    sequence: word(0),
                    timestamp,
                    method: value.get(12).copied().unwrap_or(0),
                });
            }
            (kind::AGENT, _) => self.agent = AgentInfo::read(value),
            _ => {}
        }
    }
}

impl Location {
    fn read(value: &[u8]) -> Option<Self> {
        let mut location = Self {
            destination_port: u16::from_be_bytes(array(value, 0)?),
            source_port: u16::from_be_bytes(array(value, 2)?),
            destination: None,
            source: None,
        };
        // A sub-TLV that is cut short ends the row.
        for tlv in Tlvs::new(value.get(4..)?).map_while(Result::ok) {
            if tlv.flags & (flag::UNRECOGNIZED | flag::MALFORMED) != 0 {
                continue;
            }
            let Ok(octets) = <[u8; 16]>::try_from(tlv.value) else {
                continue;
            };
            let [a, b, c, d, ..] = octets;
            let v4 = IpAddr::V4(Ipv4Addr::new(a, b, c, d));
            let v6 = IpAddr::V6(Ipv6Addr::from(octets));
            // A policy may leave an address out: zeros.
            match tlv.kind {
                place::DESTINATION_V4 if !v4.is_unspecified() => location.destination = Some(v4),
                place::DESTINATION_V6 if !v6.is_unspecified() => location.destination = Some(v6),
                place::SOURCE_V4 if !v4.is_unspecified() => location.source = Some(v4),
                place::SOURCE_V6 if !v6.is_unspecified() => location.source = Some(v6),
                _ => {}
            }
        }
        Some(location)
    }
}
