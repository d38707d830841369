//! Whether a target answers at all. One that does not is no loss of the network: it gets few
//! packets, and what is lost of them is counted apart.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Longest interval of packets to a dead target, if its own is not longer.
const LONGEST: Duration = Duration::from_mins(1);

/// What is known of a target's silence. Pure.
#[derive(Debug)]
pub(super) struct Silence {
    /// Trains without an answer after which the target counts as dead. 0: never.
    after: u16,
    timeout: Duration,
    /// Trains in a row that had no answer.
    trains: u32,
    /// Whether an answer came since the last train ended.
    is_heard: bool,
    /// Trains that ended since the target counts as dead. None: it does not.
    dead: Option<u32>,
    /// Packets before this one were sent to a dead target.
    alive_from: u32,
    /// Probes that were lost at a dead target, and when. They may still be answered late.
    pending: VecDeque<(u32, Instant)>,
}

/// A change of what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The target counts as dead from now on.
    Dies,
    /// The target answers again.
    Lives,
}

impl Silence {
    /// A target that counts as dead after so many trains without an answer.
    pub(super) fn new(after: u16, timeout: Duration) -> Self {
        Self {
            after,
            timeout,
            trains: 0,
            is_heard: false,
            dead: None,
            alive_from: 0,
            pending: VecDeque::new(),
        }
    }

    /// Begins anew with a session whose packets have other numbers. The target counts as dead until
    /// it answers, if it did. Returns how many losses were pending.
    pub(super) fn restart(&mut self) -> u64 {
        (self.is_heard, self.alive_from) = (false, 0);
        self.pending.drain(..).count() as u64
    }

    /// Takes an answer to the packet of this number.
    pub(super) fn hear(&mut self, packet: u32) -> Option<Turn> {
        (self.trains, self.is_heard) = (0, true);
        self.dead.take()?;
        self.alive_from = packet;
        Some(Turn::Lives)
    }

    /// Takes the end of a train.
    pub(super) fn end_train(&mut self) -> Option<Turn> {
        let is_heard = std::mem::take(&mut self.is_heard);
        if let Some(dead) = &mut self.dead {
            *dead = dead.saturating_add(1);
            return None;
        }
        self.trains = if is_heard {
            0
        } else {
            self.trains.saturating_add(1)
        };
        if self.after == 0 || self.trains < u32::from(self.after) {
            return None;
        }
        self.dead = Some(0);
        Some(Turn::Dies)
    }

    /// True if the target counts as dead.
    pub(super) fn is_dead(&self) -> bool {
        self.dead.is_some()
    }

    /// The interval of a dead target's packets: twice as long with each one, up to a minute. None: it
    /// is alive.
    pub(super) fn interval(&self, interval: Duration) -> Option<Duration> {
        let doublings = self.dead?.min(16);
        Some(
            interval
                .saturating_mul(1 << doublings)
                .min(interval.max(LONGEST)),
        )
    }

    /// Takes a lost probe. False: it is a loss of a target that is alive.
    pub(super) fn lost(&mut self, (probe, packet): (u32, u32), now: Instant) -> bool {
        let is_suppressed = self.is_dead() || packet < self.alive_from;
        if is_suppressed {
            self.pending.push_back((probe, now));
        }
        is_suppressed
    }

    /// Takes a probe that was answered late: it is not lost.
    pub(super) fn late(&mut self, probe: u32) {
        self.pending.retain(|(pending, _)| *pending != probe);
    }

    /// How many probes to a dead target cannot be answered any more.
    pub(super) fn settle(&mut self, now: Instant) -> u64 {
        let before = self.pending.len();
        let timeout = self.timeout;
        self.pending.retain(|(_, lost)| now < *lost + timeout);
        (before - self.pending.len()) as u64
    }

    /// When [`settle`](Self::settle) has something to count. None: nothing is pending.
    pub(super) fn due(&self) -> Option<Instant> {
        Some(self.pending.front()?.1 + self.timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_silent_target_dies_and_lives_with_its_first_answer() {
        let mut silence = Silence::new(3, SECOND);
        silence.hear(0);
        assert_eq!([(); 3].map(|()| silence.end_train()), [None; 3]);
        assert_eq!(silence.interval(SECOND), None);
        assert_eq!(silence.end_train(), Some(Turn::Dies));
        let mut intervals = Vec::new();
        for _ in 0..8 {
            intervals.extend(silence.interval(SECOND).map(|interval| interval.as_secs()));
            assert_eq!(silence.end_train(), None);
        }
        assert_eq!(intervals, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(silence.interval(10 * LONGEST), Some(10 * LONGEST));
        assert_eq!(silence.hear(40), Some(Turn::Lives));
        assert_eq!((silence.hear(41), silence.end_train()), (None, None));
        assert!(!silence.is_dead());
        let mut never = Silence::new(0, SECOND);
        assert!((0..100).all(|_| never.end_train().is_none()));
    }

    /// A train without an answer between others is loss, and kills nobody.
    #[test]
    fn an_answer_begins_the_count_anew() {
        let mut silence = Silence::new(2, SECOND);
        for packet in 0..10 {
            assert_eq!(silence.end_train(), None);
            assert_eq!(silence.hear(packet), None);
            assert_eq!(silence.end_train(), None);
        }
    }

    /// What is lost is told apart by when it was sent, not by when the loss is known.
    #[test]
    fn losses_of_the_dead_are_counted_apart() {
        let now = Instant::now();
        let mut silence = Silence::new(1, SECOND);
        assert!(!silence.lost((1, 1), now), "it is alive");
        silence.end_train();
        assert!(silence.lost((2, 2), now));
        assert!(silence.lost((3, 3), now));
        assert_eq!(silence.hear(5), Some(Turn::Lives));
        assert!(silence.lost((4, 4), now + SECOND), "sent before it lived");
        assert!(
            !silence.lost((6, 6), now + SECOND),
            "sent behind its answer"
        );
        silence.late(3);
        assert_eq!(
            (silence.due(), silence.settle(now)),
            (Some(now + SECOND), 0)
        );
        assert_eq!(silence.settle(now + SECOND), 1);
        assert_eq!(silence.restart(), 1);
        assert_eq!(silence.due(), None);
    }
}
