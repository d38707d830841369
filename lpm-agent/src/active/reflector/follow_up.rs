//! Sending, and the kernel's times of it: each goes with the session's next answer.

use std::io;

use lpm_common::stamp::reflect::FollowUp;

use super::{
    Reflector,
    answer::{method_of, source_of, timestamp},
};
use crate::active::{
    fate::{Counts, Fate, Taken},
    sessions::Place,
    socket::{Errors, Notice, Outbox, Source, Stage, Stamp},
};

/// Answers whose time of sending is still awaited.
const AWAITED: usize = 1024;

/// An answer is given up once the times of so many later ones are told.
const OVERTAKEN: u64 = 64;

/// An answer in the outbox.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) place: Place,
    pub(super) sequence: u32,
    /// Whether its time of sending is asked for.
    pub(super) is_timed: bool,
}

/// An answer whose time of sending is awaited.
#[derive(Clone, Copy, Debug)]
pub(super) struct Awaited {
    /// The packet's number on the socket.
    packet: u64,
    place: Place,
    sequence: u32,
}

impl Reflector {
    /// Sends what is in the outbox. An answer that the kernel refuses is left out.
    pub(super) fn send(&mut self, counts: &Counts, outbox: &mut Outbox) {
        let mut at = 0;
        while at < outbox.len() {
            let sent = match self.socket.send_box(outbox, at) {
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => 0,
            };
            for at in at..at + sent {
                counts.add(Fate::Answered);
                self.await_time(at, outbox.number(at), counts);
            }
            at += sent;
            if sent == 0 {
                counts.add(Fate::NotSent);
                at += 1;
            }
        }
        for waiting in self.waiting.drain(..) {
            if let Some(session) = self.sessions.at(waiting.place) {
                session.is_waiting = false;
            }
        }
        outbox.clear();
    }

    /// Awaits the time of an answer that was sent, if it is asked for.
    fn await_time(&mut self, at: usize, number: Option<u64>, counts: &Counts) {
        let Some(waiting) = self.waiting.get(at).filter(|waiting| waiting.is_timed) else {
            return;
        };
        let Some(packet) = number else {
            untold(counts);
            return;
        };
        let awaited = Awaited {
            packet,
            place: waiting.place,
            sequence: waiting.sequence,
        };
        if self.awaited.len() >= AWAITED {
            self.awaited.pop_front();
            untold(counts);
        }
        self.awaited.push_back(awaited);
    }

    /// Reads the times of sending. The last answer's time goes with the session's next answer.
    pub(super) fn take_notices(&mut self, counts: &Counts, errors: &mut Errors) -> io::Result<()> {
        let Self {
            socket,
            awaited,
            sessions,
            clock,
            ..
        } = self;
        socket.notices(errors, |notice| {
            let Notice::Sent {
                packet,
                stage: Stage::Sent,
                stamp,
            } = notice
            else {
                return;
            };
            // Devices differ in how long they keep a packet, but not by so many packets.
            while awaited
                .front()
                .is_some_and(|first| first.packet + OVERTAKEN < packet)
            {
                awaited.pop_front();
                untold(counts);
            }
            let at = awaited.binary_search_by_key(&packet, |awaited| awaited.packet);
            let Some(told) = at.ok().and_then(|at| awaited.remove(at)) else {
                return;
            };
            counts.add_time(Taken::Sending, stamp.source);
            let Some(session) = sessions.at(told.place) else {
                return;
            };
            let is_newer = session.previous.is_none_or(|(previous, _)| {
                told.sequence.wrapping_sub(previous.sequence) < u32::MAX / 2
            });
            if is_newer {
                let stamp = clock.stamp(stamp);
                session.previous = Some((follow_up(told.sequence, stamp), source_of(stamp.source)));
            }
        })
    }
}

/// Counts an answer whose time of sending is not told.
fn untold(counts: &Counts) {
    counts.add(Fate::NoSendTime);
    counts.add_time(Taken::Sending, Source::User);
}

fn follow_up(sequence: u32, stamp: Stamp) -> FollowUp {
    FollowUp {
        sequence,
        timestamp: timestamp(stamp.nanoseconds),
        method: method_of(stamp.source),
    }
}
