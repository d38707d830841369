//! What a packet is answered.

use std::{
    net::{IpAddr, SocketAddr},
    sync::PoisonError,
    time::Instant,
};

use lpm_common::stamp::{
    ErrorEstimate, Format, Mode, SenderPacket, Timestamp,
    agent::{AgentInfo, StampSource},
    reflect::{Facts, FollowUp, Refusal, Stamping, method, reflect},
    session_number,
    tlv::{Tlvs, kind},
};

use super::{Reflector, follow_up::Waiting};
use crate::active::{
    fate::{Counts, Fate, Taken},
    sessions::SessionKey,
    socket::{Outbox, Outgoing, Received, Source, Stamp},
};

/// Synchronization source of a clock that nobody synchronizes, and of one by NTP or something else
/// that adjtimex(2) does not tell apart (RFC 8972 section 5.4).
const LOCAL: u8 = 5;
const NTP: u8 = 1;

/// Why a packet has no answer in the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It gets none.
    As(Fate),
    /// The session's answer before has not been sent yet.
    NotYet,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::As(match refusal {
            Refusal::Short => Fate::Short,
            Refusal::Long => Fate::Long,
            Refusal::NoKey | Refusal::Forged => Fate::Forged,
        })
    }
}

impl Reflector {
    /// Whether the sender of a packet may have an answer.
    pub(super) fn admit(&self, received: &Received, now: Instant) -> Result<(), Refused> {
        let client = received.from.ip().to_canonical();
        if !self.settings.allow.contains(client) {
            return Err(Refused::As(Fate::NotAllowed));
        }
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        if !rates.admit(client, now) {
            return Err(Refused::As(Fate::Rate));
        }
        if received.is_cut {
            return Err(Refused::As(Fate::Long));
        }
        Ok(())
    }

    /// Puts the answer to a packet into the outbox.
    pub(super) fn answer(
        &mut self,
        received: &Received,
        request: &[u8],
        outbox: &mut Outbox,
        counts: &Counts,
        now: Instant,
    ) -> Result<(), Refused> {
        let mode = if self.settings.keys.is_empty() {
            Mode::Unauthenticated
        } else {
            Mode::Authenticated
        };
        let Some(sender) = SenderPacket::read(request, mode) else {
            return Err(Refused::As(Fate::Short));
        };
        let session = session_number(request, mode).unwrap_or_default();
        let key = SessionKey::new(received.from, received.to, session);
        let place = self.sessions.find(&key);
        let state = place.and_then(|place| self.sessions.at(place));
        let is_timed = asks_for_time(request, mode);
        let (mut sequence, mut previous) = (0, None);
        if let Some(state) = state {
            if is_timed && state.is_waiting {
                return Err(Refused::NotYet);
            }
            (sequence, previous) = (state.next, state.previous);
        }
        let arrived = self.arrival(received);
        let facts = self.facts(received, arrived, sequence, previous);
        let mac = self.settings.keys.get(&sender.session);
        let reflected = reflect(request, mode, mac, &facts, outbox.room())?;
        // Only a packet that is valid begins a session.
        let place = match place {
            Some(place) => place,
            None => (self.sessions.begin(key, now)).ok_or(Refused::As(Fate::Crowded))?,
        };
        let state = self.sessions.hear(place, now);
        let state = state.ok_or(Refused::As(Fate::Crowded))?;
        if mode == Mode::Authenticated && !state.is_new(sender.sequence) {
            return Err(Refused::As(Fate::Replayed));
        }
        state.next = state.next.wrapping_add(1);
        state.is_waiting = true;
        counts.add_time(Taken::Arrival, arrived.source);
        for (is_so, fate) in [
            (reflected.is_malformed, Fate::Malformed),
            (reflected.is_doubtful, Fate::Doubtful),
            (arrived.source == Source::User, Fate::NoReceiveTime),
        ] {
            if is_so {
                counts.add(fate);
            }
        }
        let how = Outgoing {
            from: received.to.filter(|to| !to.is_multicast()),
            traffic_class: reflected.dscp << 2,
        };
        let (length, to) = (reflected.length, received.from);
        self.socket.enclose(outbox, length, to, how, is_timed);
        self.waiting.push(Waiting {
            place,
            sequence,
            is_timed,
        });
        Ok(())
    }

    /// When a packet arrived, by this end's clock.
    fn arrival(&self, received: &Received) -> Stamp {
        match received.stamp {
            Some(stamp) => self.clock.stamp(stamp),
            None => Stamp {
                nanoseconds: self.clock.real(),
                source: Source::User,
            },
        }
    }

    fn facts(
        &self,
        received: &Received,
        arrived: Stamp,
        sequence: u32,
        previous: Option<(FollowUp, StampSource)>,
    ) -> Facts {
        let error = self.claim.error.and_then(|error| u64::try_from(error).ok());
        let source = if error.is_some() { NTP } else { LOCAL };
        let class = received.traffic_class.unwrap_or(0);
        let here = received.to.unwrap_or(IpAddr::from([0, 0, 0, 0]));
        Facts {
            receive: timestamp(arrived.nanoseconds),
            send: timestamp(self.clock.real()),
            error: ErrorEstimate::new(
                error.is_some(),
                Format::Ntp,
                error.unwrap_or(16_000_000_000),
            ),
            stamping: Stamping {
                source_in: source,
                method_in: method_of(arrived.source),
                source_out: source,
                method_out: method::CONTROL_PLANE,
            },
            ttl: received.ttl.unwrap_or(0),
            dscp: class >> 2,
            ecn: class & 3,
            source: SocketAddr::new(received.from.ip().to_canonical(), received.from.port()),
            destination: SocketAddr::new(here, self.bound.port()),
            sequence: Some(sequence),
            previous: previous.map(|(previous, _)| previous),
            counters: [0; 2],
            agent: AgentInfo {
                receive: source_of(arrived.source),
                previous: previous.map_or(StampSource::None, |(_, source)| source),
                clock_changes: self.changes,
                drift: self.clock.drift(),
            },
            permitted: u64::MAX,
        }
    }
}

/// Whether a packet asks for times of sending: it has a Follow-Up Telemetry TLV.
fn asks_for_time(request: &[u8], mode: Mode) -> bool {
    let row = request.get(mode.base()..).unwrap_or_default();
    Tlvs::new(row)
        .map_while(Result::ok)
        .any(|tlv| tlv.kind == kind::FOLLOW_UP_TELEMETRY)
}

pub(super) fn timestamp(nanoseconds: i64) -> Timestamp {
    Timestamp::from_unix(u64::try_from(nanoseconds).unwrap_or(0), Format::Ntp)
}

pub(super) fn method_of(source: Source) -> u8 {
    match source {
        Source::Hardware => method::HARDWARE,
        Source::Kernel => method::SOFTWARE,
        Source::User => method::CONTROL_PLANE,
    }
}

pub(super) fn source_of(source: Source) -> StampSource {
    match source {
        Source::Hardware => StampSource::Hardware,
        Source::Kernel => StampSource::Kernel,
        Source::User => StampSource::User,
    }
}
