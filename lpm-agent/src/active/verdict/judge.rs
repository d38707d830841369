//! Names a verdict once several rounds agree, and keeps it until several others do.

use std::{
    collections::VecDeque,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{
    Baseline, Grounds, Paths, Reason, Round, Surroundings, Verdict,
    decide::{Case, Sums, decide},
};

/// Rounds over which losses are counted.
const WINDOW: usize = 4;

/// A bad verdict is named when this many of the last [`OK_AFTER`] rounds say so.
pub const AGREE: usize = 2;

/// A bad verdict ends when this many rounds in a row say `ok`. Another bad one takes its place when
/// [`AGREE`] rounds in a row say so.
pub const OK_AFTER: usize = 3;

/// Without a round for three intervals and this time, nothing is known any more.
const GRACE: Duration = Duration::from_secs(10);

/// A verdict with its grounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// The word.
    pub verdict: Verdict,
    /// The figures of the last round that said so.
    pub grounds: Grounds,
}

/// A round, and what was decided of it.
#[derive(Debug)]
struct Judged {
    round: Round,
    vote: Option<Verdict>,
}

impl Judged {
    /// Whether losses of the round are nothing but losses: no other verdict explains them.
    fn may_be_loss(&self) -> bool {
        let is_open = self
            .vote
            .is_none_or(|vote| matches!(vote, Verdict::Ok | Verdict::Network));
        is_open && !self.round.is_silent()
    }
}

/// Judges the rounds of one session: a target in one class.
#[derive(Debug, Default)]
pub struct Judge {
    dscp: u8,
    rounds: VecDeque<Judged>,
    votes: VecDeque<Verdict>,
    baseline: Baseline,
    silent_since: Option<Instant>,
    clock_changed: Option<Instant>,
    current: Option<Judgement>,
}

impl Judge {
    /// Judges a session with this DSCP.
    #[must_use]
    pub fn new(dscp: u8) -> Self {
        Self {
            dscp,
            ..Self::default()
        }
    }

    /// The verdict. None: there are no grounds for one, or no more.
    #[must_use]
    pub fn judgement(&self) -> Option<&Judgement> {
        self.current.as_ref()
    }

    /// Takes a round. `surroundings` count only if it [is silent](Round::is_silent).
    pub fn take(&mut self, round: Round, surroundings: &Surroundings, paths: Option<Paths>) {
        if round.sent == 0 {
            return;
        }
        if self.address().is_some_and(|before| before != round.to) {
            // Another machine, with a baseline of its own.
            *self = Self::new(self.dscp);
        }
        let now = round.at;
        if self.rounds.len() >= WINDOW {
            self.rounds.pop_front();
        }
        if round.clock_changes > 0 {
            self.clock_changed = Some(now);
        }
        self.silent_since = round.is_silent().then(|| self.silent_since.unwrap_or(now));
        let is_fine = round.answered == round.sent && round.void == 0;
        let is_delayed = (round.rtt).is_some_and(|rtt| self.baseline.take(rtt.p50, is_fine, now));
        self.rounds.push_back(Judged { round, vote: None });
        self.vote(now, is_delayed, surroundings, paths);
    }

    /// Whether the last round that was decided said this.
    #[cfg(test)]
    pub(super) fn is_last_vote(&self, verdict: Verdict) -> bool {
        self.votes.back() == Some(&verdict)
    }

    fn vote(
        &mut self,
        now: Instant,
        is_delayed: bool,
        surroundings: &Surroundings,
        paths: Option<Paths>,
    ) {
        let Some(Judged { round, .. }) = self.rounds.back() else {
            return;
        };
        let since = |then: Option<Instant>| then.map(|then| now.saturating_duration_since(then));
        let lossy = self.rounds.iter().filter(|judged| judged.may_be_loss());
        let decided = decide(&Case {
            round,
            sums: Sums::of(lossy.map(|judged| &judged.round)),
            is_delayed,
            silent_for: since(self.silent_since).unwrap_or_default(),
            clock_changed: since(self.clock_changed),
            surroundings,
            paths,
        });
        let Some((vote, reason)) = decided else {
            return;
        };
        if let Some(judged) = self.rounds.back_mut() {
            judged.vote = Some(vote);
        }
        if self.votes.len() >= OK_AFTER {
            self.votes.pop_front();
        }
        self.votes.push_back(vote);
        let current = self.current.as_ref().map(|current| current.verdict);
        let named = self.named(vote, current);
        if named == Some(vote) {
            let grounds = self.grounds(reason, surroundings, paths);
            self.current = Some(Judgement {
                verdict: vote,
                grounds,
            });
        }
    }

    /// The verdict after a vote.
    fn named(&self, vote: Verdict, current: Option<Verdict>) -> Option<Verdict> {
        let in_a_row = (self.votes.iter().rev())
            .take_while(|one| **one == vote)
            .count();
        let agree = self.votes.iter().filter(|one| **one == vote).count();
        let is_named = match (current, vote) {
            (Some(current), vote) if current == vote => true,
            (Some(_), Verdict::Ok) => in_a_row >= OK_AFTER,
            (None, Verdict::Ok) | (Some(_), _) if current != Some(Verdict::Ok) => in_a_row >= AGREE,
            _ => agree >= AGREE,
        };
        if is_named { Some(vote) } else { current }
    }

    fn grounds(
        &self,
        reason: Reason,
        surroundings: &Surroundings,
        paths: Option<Paths>,
    ) -> Grounds {
        let sums = Sums::of(self.rounds.iter().map(|judged| &judged.round));
        let mut grounds = Grounds {
            reason,
            dscp: self.dscp,
            rounds: self.rounds.len(),
            sent: sums.sent,
            answered: sums.answered,
            lost: sums.lost,
            late: sums.late,
            loss_ratio: sums.loss(),
            kept: sums.kept,
            clock_changes: sums.clock_changes,
            paths,
            ..Grounds::default()
        }
        .beside(&self.baseline);
        if let Some(Judged { round, .. }) = self.rounds.back() {
            grounds = Grounds {
                refused: round.refused,
                rtt_p50: round.rtt.map(|rtt| rtt.p50),
                rtt_p99: round.rtt.map(|rtt| rtt.p99),
                dwell: round.dwell.map(|dwell| dwell.p50),
                wait: round.wait.map(|wait| wait.p50),
                waited: round.waited,
                untimed: round.untimed,
                void: round.void,
                claims_refuted: round.refuted,
                ..grounds
            };
            if round.is_silent() {
                grounds = grounds.among(surroundings);
            }
        }
        grounds
    }

    /// Drops the verdict of a session that has told nothing for long. Its baseline stays.
    pub fn expire(&mut self, now: Instant) {
        let is_old = |last: &Judged| now > last.round.at + 3 * last.round.interval + GRACE;
        if self.rounds.back().is_some_and(is_old) {
            self.rounds.clear();
            self.votes.clear();
            (self.current, self.silent_since, self.clock_changed) = (None, None, None);
        }
    }

    /// The address that the last round was sent to.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.rounds.back().map(|last| last.round.to)
    }
}
