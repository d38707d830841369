//! Taking answers, the kernel's times of sending, and errors.

use std::{
    io,
    time::{Duration, Instant},
};

use lpm_common::stamp::{
    Timestamp,
    reply::{self, Reply},
};

use super::{
    FETCH_ABOVE, Sender, Take,
    flight::{Answer, Flight, FollowedUp},
};
use crate::active::{
    report::{At, Report},
    socket::{Notice, Source, Stage, Stamp},
    statistics,
};

/// Packets whose further answers are known as duplicates after their report, and answers whose
/// number of the reflector's clock is known.
const REMEMBERED: usize = 1024;

impl Sender {
    /// Takes all answers and times of sending that have come.
    pub(super) fn receive(&mut self, report: &mut Take<'_>) -> io::Result<()> {
        self.take_notices(report)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = self.receive_into(&mut buffer, report);
        self.buffer = buffer;
        result?;
        self.take_notices(report)
    }

    fn receive_into(&mut self, buffer: &mut [u8], report: &mut Take<'_>) -> io::Result<()> {
        loop {
            let received = match self.socket.receive(buffer) {
                Ok(Some(received)) => received,
                Ok(None) => return Ok(()),
                // The error queue tells the same with more detail.
                Err(error) if error.kind() != io::ErrorKind::InvalidInput => return Ok(()),
                Err(error) => return Err(error),
            };
            let at = Instant::now();
            let taken = self.clock.real();
            let stamp = match received.stamp {
                Some(stamp) => self.clock.stamp(stamp),
                None => Stamp {
                    nanoseconds: self.clock.real(),
                    source: Source::User,
                },
            };
            // The time of sending must be known before the answer counts.
            self.take_notices(report)?;
            let same = received.from.ip().to_canonical() == self.plan.target.ip().to_canonical()
                && received.from.port() == self.plan.target.port();
            let bytes = buffer.get(..received.length).unwrap_or_default();
            let reply = reply::read(bytes, self.plan.mode(), self.plan.key.as_ref());
            let (true, Ok(reply)) = (same, reply) else {
                self.foreign += 1;
                continue;
            };
            let answer = Answer {
                reply,
                received: stamp,
                at,
                taken,
                class: received.traffic_class,
                ttl: received.ttl,
                follow_up: None,
                changes: self.clock.changes(),
            };
            self.take_answer(answer, report)?;
        }
    }

    fn take_answer(&mut self, answer: Answer, report: &mut Take<'_>) -> io::Result<()> {
        let reply = answer.reply;
        if !self.is_of_session(&reply) {
            self.foreign += 1;
            return Ok(());
        }
        self.take_follow_up(&reply);
        self.take_number(&reply, report)?;
        let found = self.flights.iter_mut().find(|flight| {
            flight.sequence == reply.packet.sender_sequence
                && flight.written == reply.packet.sender_timestamp
        });
        let Some(flight) = found else {
            // Of a packet that was reported before: it comes again.
            return match self.probe_before(&reply) {
                Some(probe) => report(Report::Duplicate { probe }),
                None => Ok(()),
            };
        };
        let probe = flight.probe;
        if flight.answer.is_some() {
            return probe.map_or(Ok(()), |probe| report(Report::Duplicate { probe }));
        }
        let is_lost = flight.is_lost;
        flight.answer = Some(answer);
        if is_lost {
            let dwell = kept(&answer);
            return probe.map_or(Ok(()), |probe| report(Report::Late { probe, dwell }));
        }
        if reply.extensions.previous.is_some() {
            self.follows_up = Some(true);
        } else if probe.is_none() && self.follows_up.is_none() {
            // This packet asked for nothing else.
            self.follows_up = Some(false);
        }
        let is_far = self.is_sent() || self.pace.interval >= FETCH_ABOVE;
        let is_single = self.schedule.size == 1;
        if probe.is_some() && is_single && is_far && self.follows_up != Some(false) {
            // Without it the time stays unknown, and the report says so.
            let _ = self.send(None);
        }
        Ok(())
    }

    /// Whether an answer is of this session: it has the session's number, or none as a reflector
    /// before RFC 8972, and a packet's number that was sent.
    fn is_of_session(&self, reply: &Reply) -> bool {
        let packet = &reply.packet;
        let session = packet.session == self.plan.session || packet.session == 0;
        session && packet.sender_sequence < self.sequence
    }

    fn take_number(&mut self, reply: &Reply, report: &mut Take<'_>) -> io::Result<()> {
        let packet = &reply.packet;
        // It says so, it knows its last answer, or its number is not a copy of the packet's.
        self.counts |= reply.extensions.agent.is_some()
            || reply.extensions.previous.is_some()
            || packet.sequence != packet.sender_sequence;
        if let Some(agent) = reply.extensions.agent {
            if self.changes_there.len() >= REMEMBERED {
                self.changes_there.pop_first();
            }
            self.changes_there
                .insert(packet.sequence, agent.clock_changes);
        }
        report(Report::Numbered {
            answer: statistics::Answer {
                packet: packet.sender_sequence,
                reflected: Some(packet.sequence),
            },
            counts: self.counts,
        })
    }

    /// The probe of an answer whose packet was reported already. None: the answer is not to a probe
    /// of this session, or the report was too long ago.
    fn probe_before(&mut self, reply: &Reply) -> Option<u32> {
        let packet = &reply.packet;
        let number = (packet.sender_sequence, packet.sender_timestamp);
        let found = self
            .reported
            .iter()
            .find(|(reported, _)| *reported == number);
        if let Some((_, probe)) = found {
            return *probe;
        }
        self.foreign += 1;
        None
    }

    /// Remembers a packet that is reported, so that further answers are known.
    pub(super) fn remember(&mut self, flight: &Flight) {
        if self.reported.len() >= REMEMBERED {
            self.reported.pop_front();
        }
        let number = (flight.sequence, flight.written);
        self.reported.push_back((number, flight.probe));
    }

    /// Gives a time of sending to the answer that it is of.
    fn take_follow_up(&mut self, reply: &Reply) {
        let Some(previous) = reply.extensions.previous else {
            return;
        };
        let agent = reply.extensions.agent;
        let followed_up = FollowedUp {
            timestamp: previous.timestamp,
            at: agent.map_or(At::Peer, |agent| At::of_agent(agent.previous)),
            changes: agent.map(|agent| agent.clock_changes),
        };
        for flight in &mut self.flights {
            if let Some(answer) = &mut flight.answer
                && answer.follow_up.is_none()
                && answer.reply.packet.sequence == previous.sequence
            {
                answer.follow_up = Some(followed_up);
            }
        }
    }

    fn take_notices(&mut self, report: &mut Take<'_>) -> io::Result<()> {
        while let Some(notice) = self.socket.notice()? {
            self.queueing.take(&notice);
            match notice {
                Notice::Sent {
                    packet,
                    stage: Stage::Sent,
                    stamp,
                } => {
                    let stamp = self.clock.stamp(stamp);
                    let of_packet = |flight: &&mut Flight| flight.packet == Some(packet);
                    if let Some(flight) = self.flights.iter_mut().find(of_packet) {
                        flight.sent = stamp;
                    }
                }
                Notice::Sent { .. } => {}
                Notice::Unreachable { error } => {
                    // Which packet it was is not told: the oldest one without an answer.
                    let waiting = |flight: &Flight| flight.answer.is_none() && !flight.is_lost;
                    let Some(at) = self.flights.iter().position(waiting) else {
                        continue;
                    };
                    if let Some(probe) = self.flights.remove(at).and_then(|flight| flight.probe) {
                        report(Report::Unreachable { probe, error })?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// How long the reflector kept a packet, by its answer alone: T3 is a time of the reflector's program,
/// from before it sent the answer.
fn kept(answer: &Answer) -> Option<Duration> {
    let packet = &answer.reply.packet;
    let near = u64::try_from(answer.received.nanoseconds).unwrap_or(0);
    let read = |timestamp: Timestamp| timestamp.to_unix(packet.error.format(), near);
    let kept = read(packet.timestamp)?.checked_sub(read(packet.receive)?)?;
    Some(Duration::from_nanos(kept))
}
