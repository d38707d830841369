//! What a sender sends: the plan of a session, and its packets (RFC 8762 section 4.2).

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use lpm_common::stamp::{
    ErrorEstimate, Format, Mac as _, Mode, SenderPacket, Timestamp,
    agent::AgentInfo,
    tlv::{HEADER, Writer, kind},
};

use super::{clock::Claim, mac::Key, schedule::when::Rhythm};

/// Bytes of the longest packet.
pub const LONGEST: usize = 9216;

/// Bytes of the TLVs that each packet has: Follow-Up Telemetry, Class of Service, and the agent's.
const TLVS: usize = (HEADER + 16) + (HEADER + 4) + (HEADER + 12);

/// Bytes of an HMAC TLV.
const HMAC_TLV: usize = HEADER + 16;

/// What is sent, and to whom.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The reflector.
    pub target: SocketAddr,
    /// The address to send from. None: the routing chooses.
    pub from: Option<IpAddr>,
    /// The interface to send by. None: the routing chooses.
    pub interface: Option<String>,
    /// The ports to send from, of which the first free one from a random one on is taken. None: any.
    pub ports: Option<RangeInclusive<u16>>,
    /// How many trains. None: until the end is asked for.
    pub count: Option<u32>,
    /// Time from the beginning of a train to that of the next one.
    pub interval: Duration,
    /// How the gaps between trains vary around the interval.
    pub rhythm: Rhythm,
    /// The probes that are sent at each interval.
    pub train: Train,
    /// Bytes of a packet behind the UDP header. Fewer than the packet needs become as many as it
    /// needs.
    pub size: usize,
    /// DSCP of the packets, and asked for of the answers: 6 bits.
    pub dscp: u8,
    /// ECN of the packets: 2 bits.
    pub ecn: u8,
    /// Time after which a packet without an answer is lost.
    pub timeout: Duration,
    /// The session's number (SSID).
    pub session: u16,
    /// The session's key. With one, packets are authenticated.
    pub key: Option<Key>,
}

/// Probes in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Train {
    /// How many, at least one. Behind several, a packet follows that is no probe: it fetches the
    /// last one's T3.
    pub probes: u32,
    /// Time from a probe to the next one.
    pub spacing: Duration,
}

impl Train {
    /// A probe alone, as ping sends it.
    pub const SINGLE: Self = Self {
        probes: 1,
        spacing: Duration::ZERO,
    };

    /// Time from the first probe to the end of the packet that fetches the last T3.
    #[must_use]
    pub fn length(&self) -> Duration {
        match self.probes {
            0 | 1 => Duration::ZERO,
            probes => self.spacing * probes,
        }
    }
}

impl Default for Train {
    /// 20 probes, 1 ms apart: several bound the offset more than one does.
    fn default() -> Self {
        Self {
            probes: 20,
            spacing: Duration::from_millis(1),
        }
    }
}

impl Plan {
    /// The byte of DSCP and ECN.
    pub(super) fn traffic_class(&self) -> u8 {
        self.dscp << 2 | self.ecn & 3
    }

    /// The mode of the packets.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match self.key {
            Some(_) => Mode::Authenticated,
            None => Mode::Unauthenticated,
        }
    }

    /// Bytes of a packet behind the UDP header.
    #[must_use]
    pub fn length(&self) -> usize {
        let hmac = if self.key.is_some() { HMAC_TLV } else { 0 };
        self.size.max(self.mode().base() + TLVS + hmac).min(LONGEST)
    }

    /// Makes the packet with this number and timestamp. `claim`: what this machine's clock claims.
    pub(super) fn packet(&self, sequence: u32, written: Timestamp, claim: Claim) -> Vec<u8> {
        let plan = self;
        let mode = plan.mode();
        let error = claim.error.and_then(|error| u64::try_from(error).ok());
        let head = SenderPacket {
            sequence,
            timestamp: written,
            error: ErrorEstimate::new(
                error.is_some(),
                Format::Ntp,
                error.unwrap_or(16_000_000_000),
            ),
            session: plan.session,
        };
        let mut bytes = vec![0; plan.length()];
        head.write(mode, &mut bytes);
        let mut writer = Writer::new(&mut bytes, mode.base());
        // The packet has room for these: Plan::length counts them.
        let _ = writer.push(kind::FOLLOW_UP_TELEMETRY, &[0; 16]);
        let _ = writer.push(kind::CLASS_OF_SERVICE, &[plan.dscp << 2, 0, 0, 0]);
        let _ = writer.push(kind::AGENT, &AgentInfo::question());
        let before_hmac = writer.length();
        if plan.key.is_some() {
            let _ = writer.push(kind::HMAC, &[0; 16]);
        }
        let _ = writer.pad(plan.length());
        let length = writer.length();
        bytes.truncate(length);
        if let Some(key) = &plan.key {
            sign(key, mode, before_hmac, &mut bytes);
        }
        bytes
    }
}

/// Writes the HMACs of a packet whose HMAC TLV begins at `at`.
fn sign(key: &Key, mode: Mode, at: usize, bytes: &mut [u8]) {
    let base = mode.base();
    let tag = match (bytes.get(..4), bytes.get(base..at)) {
        (Some(sequence), Some(covered)) => key.tag(&[sequence, covered]),
        _ => return,
    };
    if let Some(place) = bytes.get_mut(at + HEADER..at + HMAC_TLV) {
        place.copy_from_slice(&tag);
    }
    if let Some(covered) = mode.covered()
        && let Some((covered, rest)) = bytes.split_at_mut_checked(covered)
        && let Some(place) = rest.get_mut(..16)
    {
        place.copy_from_slice(&key.tag(&[covered]));
    }
}
