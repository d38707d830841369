//! What the answers to a train tell of its probes and of the clocks.

use std::{
    io,
    time::{Duration, Instant},
};

use lpm_common::stamp::Timestamp;

use super::{
    Sender, Take,
    flight::{Answer, Flight},
};
use crate::active::{
    Stamps,
    clock::{Change, DRIFT, is_in_doubt},
    offset::{Known, Restart},
    report::{Answered, At, Report, Seen, Sources, TrainEnd, Void},
    socket::Source,
};

/// A probe and its answer.
type Pair = (Flight, Answer);

impl Sender {
    /// Reports the packets of which nothing more is awaited.
    pub(super) fn report_final(&mut self, now: Instant, report: &mut Take<'_>) -> io::Result<()> {
        let timeout = self.plan.timeout;
        for flight in &mut self.flights {
            if flight.answer.is_none() && !flight.is_lost && now >= flight.sent_at + timeout {
                flight.is_lost = true;
                if let Some(probe) = flight.probe {
                    let sequence = flight.sequence;
                    report(Report::Lost { probe, sequence })?;
                }
            }
        }
        while self.judged < self.schedule.train {
            let train = self.judged;
            let mut probes =
                (self.flights.iter()).filter(|one| one.train == train && one.probe.is_some());
            if !probes.all(|flight| self.is_final(flight, now)) {
                break;
            }
            self.end_train(train, report)?;
        }
        self.forget(now);
        Ok(())
    }

    /// Reports what was answered, without waiting for more.
    pub(in crate::active) fn finish(&mut self, report: &mut Take<'_>) -> io::Result<()> {
        self.receive(report)?;
        while let Some(train) = self
            .flights
            .iter()
            .filter(|flight| flight.answer.is_some() && flight.probe.is_some() && !flight.is_lost)
            .map(|flight| flight.train)
            .next()
        {
            self.end_train(train, report)?;
        }
        Ok(())
    }

    /// Whether nothing more is awaited for a probe. A lost one may still come late.
    pub(super) fn is_final(&self, flight: &Flight, now: Instant) -> bool {
        let Some(answer) = &flight.answer else {
            return flight.is_lost;
        };
        // The next answer but one is there: the one that tells this one's time was lost.
        let highest = self
            .changes_there
            .last_key_value()
            .map(|(highest, _)| *highest);
        let number = answer.reply.packet.sequence;
        flight.is_lost
            || answer.follow_up.is_some()
            || self.follows_up == Some(false)
            || highest.is_some_and(|highest| highest >= number.saturating_add(2))
            || now >= answer.at + self.plan.timeout
    }

    /// Forgets lost packets after a second timeout: until then a late answer is known as such. A
    /// packet that only fetched a time is forgotten once it has.
    fn forget(&mut self, now: Instant) {
        let timeout = self.plan.timeout;
        let flights = std::mem::take(&mut self.flights);
        for flight in flights {
            let is_kept = match &flight.answer {
                Some(_) => flight.probe.is_some() && !flight.is_lost,
                None => now < flight.sent_at + 2 * timeout,
            };
            // Nobody waits for a packet that fetches a time once all probes are reported.
            let is_idle = flight.probe.is_none() && self.is_sent();
            let is_idle = is_idle && self.judged >= self.schedule.train;
            if is_kept && !is_idle {
                self.flights.push_back(flight);
            } else {
                self.remember(&flight);
            }
        }
    }

    /// Reports the answered probes of a train, and what they tell together.
    fn end_train(&mut self, train: u32, report: &mut Take<'_>) -> io::Result<()> {
        let flights = std::mem::take(&mut self.flights);
        let mut pairs: Vec<Pair> = Vec::new();
        for flight in flights {
            match flight.answer {
                Some(answer)
                    if flight.train == train && flight.probe.is_some() && !flight.is_lost =>
                {
                    self.remember(&flight);
                    pairs.push((flight, answer));
                }
                _ => self.flights.push_back(flight),
            }
        }
        self.judged = self.judged.max(train.saturating_add(1));
        let mut answered = Vec::with_capacity(pairs.len());
        let (at, restarts) = self.judge(pairs, &mut answered);
        for restart in restarts {
            report(Report::Restarted(restart))?;
        }
        answered.sort_by_key(|answered| answered.probe);
        for one in answered {
            report(Report::Answered(one))?;
        }
        let claims = self.claims();
        let bounds = at.and_then(|at| self.offset.at(at));
        report(Report::Train(TrainEnd {
            train,
            offset: bounds.map(|bounds| Known::new(bounds, claims)),
            claims,
        }))
    }

    /// Judges a train's answers. Returns the monotonic time of the last one, and why the offset's
    /// window began anew.
    fn judge(
        &mut self,
        mut pairs: Vec<Pair>,
        answered: &mut Vec<Answered>,
    ) -> (Option<i64>, Vec<Restart>) {
        // The order in which the reflector had them: the numbers of its clock are in order then.
        let counts = self.counts;
        pairs.sort_by_key(|(flight, answer)| {
            if counts {
                answer.reply.packet.sequence
            } else {
                flight.sequence
            }
        });
        if let Some((_, answer)) = pairs.last() {
            let error = answer.reply.packet.error;
            let claim = error.nanoseconds().filter(|_| error.is_synchronized());
            self.claim_there = claim.and_then(|claim| i64::try_from(claim).ok());
            let drift = answer.reply.extensions.agent.map(|agent| agent.drift);
            // A drift of 0 is none that a clock has: it was not told.
            let there = drift.filter(|drift| *drift > 0).unwrap_or(DRIFT);
            self.offset.allow(self.clock.drift().saturating_add(there));
        }
        let mut restarts = Vec::new();
        let mut at = None;
        let mut rest = pairs.as_slice();
        while let Some(first) = rest.first() {
            let epoch = self.epoch_of(first);
            let length = rest
                .iter()
                .take_while(|pair| self.epoch_of(pair) == epoch)
                .count();
            let (part, behind) = rest.split_at(length);
            rest = behind;
            let Some(epoch) = epoch else {
                answered.extend(
                    part.iter()
                        .map(|pair| self.answered(pair, Err(Void::Clock))),
                );
                continue;
            };
            restarts.extend(self.enter(epoch));
            self.judge_part(part, answered, &mut restarts);
            at = part.last().map(|(flight, _)| flight.monotonic);
        }
        (at, restarts)
    }

    /// Judges answers of one epoch.
    fn judge_part(
        &mut self,
        part: &[Pair],
        answered: &mut Vec<Answered>,
        restarts: &mut Vec<Restart>,
    ) {
        let mut stamps: Vec<_> = part.iter().map(|pair| self.stamps(pair)).collect();
        let good = part.iter().zip(&stamps);
        let good =
            good.filter_map(|((flight, _), stamps)| Some((flight.monotonic, (*stamps).ok()?)));
        let good: Vec<_> = good.collect();
        if let Err(restart) = self.offset.take(good.iter().copied()) {
            self.window += 1;
            restarts.push(restart);
            // The train excludes itself: nobody knows between which packets the clock was set.
            if good
                .last()
                .is_some_and(|(at, _)| self.offset.at(*at).is_none())
            {
                for one in stamps.iter_mut().filter(|stamps| stamps.is_ok()) {
                    *one = Err(Void::Clock);
                }
            }
        }
        for (pair, stamps) in part.iter().zip(stamps) {
            answered.push(self.answered(pair, stamps));
        }
    }

    /// The numbers of both clocks over an answer. None: a clock was set meanwhile, or it may have
    /// been.
    fn epoch_of(&self, (flight, answer): &Pair) -> Option<[u16; 2]> {
        let here = answer.changes;
        if flight.changes != here || is_in_doubt(here) {
            return None;
        }
        let Some(agent) = answer.reply.extensions.agent else {
            return Some([here, 0]);
        };
        let there = agent.clock_changes;
        let number = answer.reply.packet.sequence;
        let before = self.changes_there.range(..number).next_back();
        let behind = answer.follow_up.and_then(|behind| behind.changes);
        // Without a follow-up, the time of sending is one of the program's, before the next answer.
        let next = self.changes_there.range(number.saturating_add(1)..).next();
        let around = [before, next].into_iter().flatten();
        let mut beside = around.map(|(_, changes)| *changes).chain(behind);
        let is_one = beside.all(|beside| beside == there) && !is_in_doubt(there);
        is_one.then_some([here, there])
    }

    /// Begins the window anew if a clock is another one than before.
    fn enter(&mut self, epoch: [u16; 2]) -> Option<Restart> {
        let before = self.epoch.replace(epoch)?;
        if before == epoch {
            return None;
        }
        self.offset.restart();
        self.window += 1;
        Some(match self.clock.last_change() {
            _ if before[0] == epoch[0] => Restart::There,
            Some(Change::Rate) => Restart::RateHere,
            _ => Restart::SetHere,
        })
    }

    fn stamps(&self, (flight, answer): &Pair) -> Result<Stamps, Void> {
        let packet = &answer.reply.packet;
        let near = u64::try_from(answer.received.nanoseconds).unwrap_or(0);
        let read = |timestamp: Timestamp| {
            let nanoseconds = timestamp.to_unix(packet.error.format(), near);
            let nanoseconds = nanoseconds.and_then(|nanoseconds| i64::try_from(nanoseconds).ok());
            nanoseconds.ok_or(Void::Impossible)
        };
        let sent_there = answer
            .follow_up
            .map_or(packet.timestamp, |one| one.timestamp);
        let stamps = Stamps {
            sent: flight.sent.nanoseconds,
            reflector_received: read(packet.receive)?,
            reflector_sent: read(sent_there)?,
            received: answer.received.nanoseconds,
        };
        if stamps.round_trip().is_some() {
            return Ok(stamps);
        }
        // A long dwell and a short way, told by clocks of different rates, may leave less than
        // nothing of the round trip.
        let left = i128::from(stamps.received)
            - i128::from(stamps.sent)
            - i128::from(stamps.dwell().ok_or(Void::Impossible)?);
        if left >= -i128::from(self.offset.drifted(&stamps)) {
            return Err(Void::Clock);
        }
        Err(Void::Impossible)
    }

    /// Makes of an answer what is known of the probe.
    fn answered(&self, (flight, answer): &Pair, stamps: Result<Stamps, Void>) -> Answered {
        let extensions = &answer.reply.extensions;
        let agent = extensions.agent;
        let bounds = stamps.ok().and_then(|_| self.offset.at(flight.monotonic));
        let class = extensions.class;
        Answered {
            probe: flight.probe.unwrap_or_default(),
            train: flight.train,
            stamps,
            sources: Sources {
                sent: At::of(flight.sent.source),
                reflector_received: agent.map_or(At::Peer, |agent| At::of_agent(agent.receive)),
                reflector_sent: match answer.follow_up {
                    Some(followed_up) => followed_up.at,
                    None => agent.map_or(At::Peer, |_| At::User),
                },
                received: At::of(answer.received.source),
            },
            waited: waited(answer),
            window: self.window,
            offset: bounds.map(|bounds| Known::new(bounds, self.claims())),
            delays: (stamps.ok()).and_then(|stamps| self.offset.delays(flight.monotonic, &stamps)),
            seen: Seen {
                ttl_sent: self.ttl,
                ttl_forward: answer.reply.packet.ttl,
                ttl_backward: answer.ttl,
                dscp_forward: class.map(|class| class.dscp),
                dscp_backward: answer.class.map(|class| class >> 2),
                ecn_forward: class.map(|class| class.ecn),
                ecn_backward: answer.class.map(|class| class & 3),
            },
        }
    }
}

/// Time from the kernel receiving an answer to the program taking it. A card's clock is another one.
fn waited(answer: &Answer) -> Option<Duration> {
    if answer.received.source != Source::Kernel {
        return None;
    }
    let waited = answer.taken.checked_sub(answer.received.nanoseconds)?;
    Some(Duration::from_nanos(u64::try_from(waited).ok()?))
}
