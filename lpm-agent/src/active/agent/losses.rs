//! Which way a lost probe was lost, told as soon as it can be.
//!
//! The reflector counts the packets that it gets. So a gap between two answers tells how many of the
//! packets in it were lost on the way there, and how many answers on the way back.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::active::{
    statistics::{Answer, gaps},
    summary::Lost,
};

/// Most answers that are kept: those of the longest trains, and some.
const ANSWERS: usize = 4096;

/// A probe whose timeout is over.
#[derive(Clone, Copy, Debug)]
struct Pending {
    probe: u32,
    /// The packet's number on the wire.
    sequence: u32,
    reported: Instant,
}

/// The losses of a session that are not told yet, and the answers that tell of them.
#[derive(Debug)]
pub(super) struct Losses {
    /// Time after which a late answer is none any more.
    timeout: Duration,
    /// Time to wait for an answer to a later packet.
    patience: Duration,
    pending: VecDeque<Pending>,
    answers: Vec<Answer>,
    /// Answers to packets up to this one may be forgotten.
    from: u32,
}

impl Losses {
    pub(super) fn new(timeout: Duration, interval: Duration) -> Self {
        Self {
            timeout,
            patience: timeout + interval + timeout,
            pending: VecDeque::new(),
            answers: Vec::new(),
            from: 0,
        }
    }

    /// Takes another interval.
    pub(super) fn set_interval(&mut self, interval: Duration) {
        self.patience = self.timeout + interval + self.timeout;
    }

    /// Begins anew with a session whose packets have other numbers. Returns how many losses were
    /// pending.
    pub(super) fn restart(&mut self) -> u64 {
        self.answers.clear();
        self.from = 0;
        self.pending.drain(..).count() as u64
    }

    /// Takes a probe whose timeout is over.
    pub(super) fn lost(&mut self, (probe, sequence): (u32, u32), now: Instant) {
        self.pending.push_back(Pending {
            probe,
            sequence,
            reported: now,
        });
    }

    /// Takes a probe whose answer came late: it is not lost.
    pub(super) fn late(&mut self, probe: u32) {
        self.pending.retain(|pending| pending.probe != probe);
    }

    /// Takes the numbers of answers.
    pub(super) fn hear(&mut self, answers: impl IntoIterator<Item = Answer>) {
        self.answers.extend(answers);
        let Some(many) = self.answers.len().checked_sub(ANSWERS) else {
            return;
        };
        // Half of them go, so that it is not done for each answer.
        let old = self.answers.drain(..many + ANSWERS / 2);
        self.from = old.map(|answer| answer.packet).fold(self.from, u32::max);
    }

    /// Tells the losses that nothing can change any more.
    pub(super) fn settle(&mut self, now: Instant) -> Lost {
        let mut lost = Lost::default();
        let is_final = |one: &Pending| now >= one.reported + self.timeout;
        for gap in gaps(&self.answers) {
            let packets = gap.first..gap.first.saturating_add(gap.missing);
            let mut probes = (self.pending.iter()).filter(|one| packets.contains(&one.sequence));
            let count = probes.clone().count() as u64;
            if gap.first < self.from || count == 0 || !probes.all(is_final) {
                continue;
            }
            let (missing, received) = (u64::from(gap.missing), gap.received.map(u64::from));
            match received {
                Some(0) => lost.forward += count,
                Some(received) if received == missing => lost.backward += count,
                Some(received) if count == missing => {
                    lost.forward += missing - received;
                    lost.backward += received;
                }
                // Other packets than probes are missing, too, or the reflector does not count.
                _ => lost.unknown += count,
            }
            self.pending.retain(|one| !packets.contains(&one.sequence));
        }
        let before = self.pending.len();
        let patience = self.patience;
        self.pending.retain(|one| now < one.reported + patience);
        lost.unknown += (before - self.pending.len()) as u64;
        lost
    }

    /// When [`settle`](Self::settle) can have something to do: the first loss decides, because further
    /// ones may come without end. None: nothing is pending.
    pub(super) fn due(&self) -> Option<Instant> {
        let first = self.pending.front()?;
        let is_passed = (self.answers.iter()).any(|answer| answer.packet > first.sequence);
        // The answer to a later packet may still come.
        Some(if is_passed {
            first.reported + self.timeout
        } else {
            first.reported + self.patience
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1);
    const INTERVAL: Duration = Duration::from_secs(5);

    fn answers(all: &[(u32, u32)]) -> Vec<Answer> {
        let answer = |(packet, reflected): &(u32, u32)| Answer {
            packet: *packet,
            reflected: Some(*reflected),
        };
        all.iter().map(answer).collect()
    }

    fn lost(forward: u64, backward: u64, unknown: u64) -> Lost {
        Lost {
            forward,
            backward,
            unknown,
        }
    }

    #[test]
    fn a_loss_is_told_once_no_late_answer_can_come() {
        let mut losses = Losses::new(TIMEOUT, INTERVAL);
        let now = Instant::now();
        // Packet 1 did not arrive there; the answer to packet 3 did not arrive here.
        losses.hear(answers(&[(0, 0), (2, 1), (4, 3)]));
        losses.lost((1, 1), now);
        losses.lost((3, 3), now);
        assert_eq!(losses.settle(now), lost(0, 0, 0));
        assert_eq!(losses.due(), Some(now + TIMEOUT));
        assert_eq!(losses.settle(now + TIMEOUT), lost(1, 1, 0));
        assert_eq!(losses.due(), None);
        losses.hear(answers(&[(5, 4), (7, 6)]));
        losses.lost((6, 6), now);
        assert_eq!(losses.settle(now + TIMEOUT), lost(0, 1, 0));
        assert_eq!(losses.settle(now + 2 * INTERVAL), lost(0, 0, 0));
    }

    /// A gap whose beginning is forgotten tells nothing, and memory is bounded.
    #[test]
    fn what_is_forgotten_is_no_gap() {
        let mut losses = Losses::new(TIMEOUT, INTERVAL);
        let now = Instant::now();
        let many = u32::try_from(ANSWERS).expect("a small number");
        losses.hear((0..2 * many).map(|packet| Answer {
            packet,
            reflected: Some(packet),
        }));
        assert!(losses.answers.len() <= ANSWERS);
        let next = 2 * many;
        losses.lost((next, next), now);
        losses.hear(answers(&[(next + 1, next)]));
        assert_eq!(losses.settle(now + TIMEOUT), lost(1, 0, 0));
        losses.lost((7, 7), now);
        assert_eq!(losses.settle(now + TIMEOUT), lost(0, 0, 0));
    }

    #[test]
    fn a_late_answer_takes_a_loss_back() {
        let mut losses = Losses::new(TIMEOUT, INTERVAL);
        let now = Instant::now();
        losses.hear(answers(&[(0, 0), (2, 2)]));
        losses.lost((1, 1), now);
        losses.late(1);
        assert_eq!(losses.settle(now + 2 * INTERVAL), lost(0, 0, 0));
    }

    #[test]
    fn behind_the_last_answer_the_way_is_unknown_after_a_while() {
        let mut losses = Losses::new(TIMEOUT, INTERVAL);
        let now = Instant::now();
        losses.hear(answers(&[(0, 0)]));
        losses.lost((1, 1), now);
        assert_eq!(losses.settle(now + TIMEOUT), lost(0, 0, 0));
        let due = losses.due().expect("it is pending");
        assert!(due > now + INTERVAL);
        assert_eq!(losses.settle(due), lost(0, 0, 1));
        // The reflector's host was away: it has counted nothing.
        losses.lost((2, 2), due);
        losses.hear(answers(&[(3, 1)]));
        assert_eq!(losses.settle(due + TIMEOUT), lost(1, 0, 0));
    }

    #[test]
    fn a_reflector_that_began_anew_tells_no_way() {
        let mut losses = Losses::new(TIMEOUT, INTERVAL);
        let now = Instant::now();
        losses.hear(answers(&[(0, 0), (1, 1), (3, 0)]));
        losses.lost((2, 2), now);
        assert_eq!(losses.settle(now + TIMEOUT), lost(0, 0, 1));
    }

    /// Losses that come faster than a timeout passes do not put each other off.
    #[test]
    fn losses_that_go_on_are_told() {
        let mut losses = Losses::new(TIMEOUT, INTERVAL);
        let begin = Instant::now();
        let mut told = 0;
        // Every second packet is lost there, and reported 100 ms after the one before.
        for number in 0..40 {
            let now = begin + TIMEOUT / 10 * number;
            let (lost, answered) = (2 * number + 1, 2 * number + 2);
            losses.lost((lost, lost), now);
            losses.hear(answers(&[(answered, number + 1)]));
            if losses.due().is_some_and(|due| due <= now) {
                told += losses.settle(now).forward;
            }
        }
        assert!(told >= 28, "{told} of 40");
    }
}
