//! What a Session-Reflector makes of a packet: the answer, of the same length (RFC 8762 section 4.3,
//! RFC 8972 section 4).

use core::net::SocketAddr;

use super::{
    ErrorEstimate, Mode, ReflectorPacket, SHORTEST, SenderPacket, Timestamp,
    agent::AgentInfo,
    array,
    location::locate,
    protection::{Mac, Protection, verify_base},
    put,
    tlv::{self, HEADER, flag, kind},
};

/// Why a packet is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The packet is shorter than an answer would be.
    Short,
    /// The answer does not fit the buffer.
    Long,
    /// The mode asks for an HMAC, and there is no key for the session.
    NoKey,
    /// The base packet's HMAC is wrong.
    Forged,
}

/// The previous answer's time of sending, for the Follow-Up Telemetry TLV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowUp {
    /// The reflector's sequence number of that answer.
    pub sequence: u32,
    /// When that answer was sent (T3).
    pub timestamp: Timestamp,
    /// How the time was taken ([`method`]).
    pub method: u8,
}

/// Timestamping methods (RFC 8972 section 5.5). 0: not told.
pub mod method {
    /// By the network card.
    pub const HARDWARE: u8 = 1;
    /// By software of this machine.
    pub const SOFTWARE: u8 = 2;
    /// By a control plane.
    pub const CONTROL_PLANE: u8 = 3;
}

/// How a reflector gets its timestamps, for the Timestamp Information TLV. 0: not told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamping {
    /// What synchronizes the clock of T2 (RFC 8972 section 5.4).
    pub source_in: u8,
    /// How T2 is taken ([`method`]).
    pub method_in: u8,
    /// What synchronizes the clock of T3.
    pub source_out: u8,
    /// How T3 is taken ([`method`]).
    pub method_out: u8,
}

/// What the reflector knows of the packet and of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// When the packet was received (T2).
    pub receive: Timestamp,
    /// When the answer is sent (T3), as far as that is known before.
    pub send: Timestamp,
    /// How wrong the reflector's clock may be.
    pub error: ErrorEstimate,
    /// How the timestamps are taken.
    pub stamping: Stamping,
    /// TTL or hop limit with which the packet arrived.
    pub ttl: u8,
    /// DSCP with which the packet arrived, 6 bits.
    pub dscp: u8,
    /// ECN with which the packet arrived, 2 bits.
    pub ecn: u8,
    /// Who sent the packet.
    pub source: SocketAddr,
    /// To which of the reflector's addresses it was sent.
    pub destination: SocketAddr,
    /// The reflector's own sequence number, if it keeps state for the session.
    pub sequence: Option<u32>,
    /// The previous answer in the session, if its time of sending is known.
    pub previous: Option<FollowUp>,
    /// Packets of the measured traffic received and sent, for the Direct Measurement TLV; zeros if
    /// they are not known.
    pub counters: [u32; 2],
    /// What the agent knows of its times.
    pub agent: AgentInfo,
    /// The DSCPs that an answer may be given on request: bit N for DSCP N.
    pub permitted: u64,
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reflected {
    /// Bytes of the answer: as many as the packet had.
    pub length: usize,
    /// The DSCP to send it with.
    pub dscp: u8,
    /// Whether the TLVs were left alone because their HMAC is wrong or missing.
    pub is_doubtful: bool,
    /// Whether a TLV is malformed. It and those behind it were left alone.
    pub is_malformed: bool,
}

/// Writes the answer to `request` into `answer`. `mac` has the session's key: an authenticated
/// session needs one, and TLVs with an HMAC are left alone without.
///
/// # Errors
/// [`Refusal`]: why the packet gets no answer.
pub fn reflect<M: Mac>(
    request: &[u8],
    mode: Mode,
    mac: Option<&M>,
    facts: &Facts,
    answer: &mut [u8],
) -> Result<Reflected, Refusal> {
    let shortest = if mode.covered().is_some() {
        mode.base()
    } else {
        SHORTEST
    };
    if request.len() < shortest {
        return Err(Refusal::Short);
    }
    let sender = SenderPacket::read(request, mode).ok_or(Refusal::Short)?;
    verify_base(request, mode, mac)?;
    let answer = answer.get_mut(..request.len()).ok_or(Refusal::Long)?;
    answer.copy_from_slice(request);
    let packet = ReflectorPacket {
        sequence: facts.sequence.unwrap_or(sender.sequence),
        timestamp: facts.send,
        error: facts.error,
        session: sender.session,
        receive: facts.receive,
        sender_sequence: sender.sequence,
        sender_timestamp: sender.timestamp,
        sender_error: sender.error,
        ttl: facts.ttl,
    };
    packet.write(mode, answer);
    let mut reflected = Reflected {
        length: answer.len(),
        dscp: facts.dscp,
        is_doubtful: false,
        is_malformed: false,
    };
    if let Some((base, row)) = answer.split_at_mut_checked(mode.base()) {
        let before = request.get(mode.base()..).unwrap_or_default();
        let protection = Protection::of(before);
        reflected.is_doubtful = !protection.holds(request, before, mode, mac);
        if reflected.is_doubtful {
            reflected.is_malformed = doubt(row);
        } else {
            let mut tlvs = Processing { facts, dscp: None };
            reflected.is_malformed = tlvs.process(row);
            reflected.dscp = tlvs.dscp.unwrap_or(facts.dscp);
            sign_tlvs(base, row, mac, protection);
        }
        sign_base(base, mode, mac);
    }
    Ok(reflected)
}

/// Writes the HMAC of the TLVs where there is one. Only TLVs that were verified get one: with an HMAC
/// of doubtful TLVs anybody could have his own signed, and send them as a request.
fn sign_tlvs<M: Mac>(base: &[u8], row: &mut [u8], mac: Option<&M>, protection: Protection) {
    if let (Some(mac), Protection::At(at)) = (mac, protection)
        && let Some((covered, rest)) = row.split_at_mut_checked(at)
    {
        let sequence: [u8; 4] = array(base, 0).unwrap_or_default();
        put(rest, HEADER, &mac.tag(&[&sequence, covered]));
    }
}

/// Writes the HMAC of the base packet, if the mode has one.
fn sign_base<M: Mac>(base: &mut [u8], mode: Mode, mac: Option<&M>) {
    if let (Some(mac), Some(covered)) = (mac, mode.covered())
        && let Some((covered, rest)) = base.split_at_mut_checked(covered)
    {
        put(rest, 0, &mac.tag(&[covered]));
    }
}

/// Sets flag I in each TLV. Their values are copied as they are. True: the row ends within a TLV.
fn doubt(row: &mut [u8]) -> bool {
    let (mut at, mut is_malformed) = (0, false);
    while let Some(next) = next(row, at) {
        let (flags, end) = match next {
            Next::Whole { kind, length } => {
                let known = tlv::length_is_valid(kind, length).is_some();
                let unrecognized = if known { 0 } else { flag::UNRECOGNIZED };
                (unrecognized, at + HEADER + length)
            }
            Next::Cut => {
                is_malformed = true;
                (flag::MALFORMED, row.len())
            }
        };
        put(row, at, &[flags | flag::INTEGRITY]);
        at = end;
    }
    is_malformed
}

/// What begins at a place in a row of TLVs.
pub(super) enum Next {
    Whole { kind: u8, length: usize },
    Cut,
}

pub(super) fn next(row: &[u8], at: usize) -> Option<Next> {
    let rest = row.get(at..).filter(|rest| !rest.is_empty())?;
    Some(match tlv::Tlvs::new(rest).next()? {
        Ok(tlv) => Next::Whole {
            kind: tlv.kind,
            length: tlv.value.len(),
        },
        Err(_) => Next::Cut,
    })
}

struct Processing<'a> {
    facts: &'a Facts,
    /// The DSCP that the sender asked for and may have.
    dscp: Option<u8>,
}

impl Processing<'_> {
    /// Fills in what the TLVs ask for. A malformed TLV ends that, and it and all behind it are copied:
    /// true.
    fn process(&mut self, row: &mut [u8]) -> bool {
        // Zeros behind the base packet are padding of a sender that knows no TLVs.
        if row.iter().all(|byte| *byte == 0) {
            return false;
        }
        let facts = self.facts;
        let mut at = 0;
        while let Some(next) = next(row, at) {
            let Next::Whole { kind, length } = next else {
                put(row, at, &[flag::MALFORMED]);
                return true;
            };
            let end = at + HEADER + length;
            let Some(value) = row.get_mut(at + HEADER..end) else {
                return true;
            };
            let flags = match tlv::length_is_valid(kind, length) {
                // Another implementation may use the number, too.
                None if kind == kind::AGENT && AgentInfo::is_one(value) => {
                    facts.agent.write(value);
                    0
                }
                // An access network's report is for a reflector that steers traffic. This one does
                // not, so it says that it does not understand.
                None | Some(true) if kind == kind::ACCESS_REPORT => flag::UNRECOGNIZED,
                None => flag::UNRECOGNIZED,
                Some(true) => {
                    self.fill(kind, value);
                    0
                }
                Some(false) => {
                    if kind == kind::FOLLOW_UP_TELEMETRY {
                        put(value, 0, &[0; 12]);
                    }
                    flag::MALFORMED
                }
            };
            put(row, at, &[flags]);
            if flags == flag::MALFORMED {
                return true;
            }
            at = end;
        }
        false
    }

    fn fill(&mut self, kind: u8, value: &mut [u8]) {
        let facts = self.facts;
        match kind {
            kind::LOCATION => locate(facts, value),
            kind::TIMESTAMP_INFORMATION => {
                let of = facts.stamping;
                put(
                    value,
                    0,
                    &[of.source_in, of.method_in, of.source_out, of.method_out],
                );
            }
            kind::CLASS_OF_SERVICE => self.class_of_service(value),
            kind::DIRECT_MEASUREMENT => {
                put(value, 4, &facts.counters[0].to_be_bytes());
                put(value, 8, &facts.counters[1].to_be_bytes());
            }
            kind::FOLLOW_UP_TELEMETRY => {
                value.fill(0);
                // Without state there is no sequence number to speak of.
                if let (Some(previous), Some(_)) = (facts.previous, facts.sequence) {
                    put(value, 0, &previous.sequence.to_be_bytes());
                    put(value, 4, &previous.timestamp.0.to_be_bytes());
                    put(value, 12, &[previous.method]);
                }
            }
            _ => {}
        }
    }

    /// DSCP1 asks for the answer's DSCP; DSCP2 and ECN tell what arrived (RFC 8972 section 4.4).
    fn class_of_service(&mut self, value: &mut [u8]) {
        let facts = self.facts;
        let asked = value.first().map_or(0, |byte| byte >> 2);
        let is_permitted = facts.permitted >> asked & 1 == 1;
        if is_permitted && self.dscp.is_none() {
            self.dscp = Some(asked);
        }
        let (seen, ecn) = (facts.dscp & 0x3f, facts.ecn & 3);
        let refused = u8::from(!is_permitted);
        put(
            value,
            0,
            &[asked << 2 | seen >> 4, seen << 4 | ecn << 2 | refused, 0, 0],
        );
    }
}
