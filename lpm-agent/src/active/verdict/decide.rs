//! The word for one round, in the order that [`super`] gives reasons for.

use std::time::Duration;

use super::{Neighbour, Passive, Paths, Presence, Reason, Round, Surroundings, Verdict};

/// Share of lost probes from which on packets are lost.
pub const LOSS: f64 = 0.05;

/// Rounds in which probes must be lost. One is what a filter leaves that comes or goes in mid-train.
pub const LOSSY: u32 = 2;

/// Time from which on a program has kept a packet for too long.
pub const STALL: Duration = Duration::from_millis(25);

/// Longest time for which silence is not judged because the kernel has not asked the neighbour again.
pub const PENDING: Duration = Duration::from_secs(15);

/// Longest time for which silence is not judged because flows of others may only be slow.
pub const LOOK: Duration = Duration::from_secs(5);

/// How long a change of a clock is told: longer than the usual interval of scrapes.
pub const CLOCK_LASTS: Duration = Duration::from_secs(30);

/// What is decided of a round. None: more must be known first.
pub type Decision = Option<(Verdict, Reason)>;

/// A round, and what came before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case<'a> {
    /// The round that is decided.
    pub(super) round: &'a Round,
    /// Sums over the last rounds in which something came back, this one included. What is explained by
    /// another verdict is left out, and must not look like a loss afterwards.
    pub(super) sums: Sums,
    /// Whether the median round trip is beyond the baseline.
    pub(super) is_delayed: bool,
    /// Time since the first of the silent rounds.
    pub(super) silent_for: Duration,
    /// Time since a clock changed. None: none did.
    pub(super) clock_changed: Option<Duration>,
    pub(super) surroundings: &'a Surroundings,
    pub(super) paths: Option<Paths>,
}

/// Sums over rounds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    pub(super) sent: u32,
    pub(super) answered: u32,
    pub(super) lost: u32,
    pub(super) late: u32,
    pub(super) kept: u32,
    pub(super) clock_changes: u32,
    /// Rounds with a loss.
    pub(super) lossy: u32,
}

impl Sums {
    pub(super) fn of<'a>(rounds: impl Iterator<Item = &'a Round>) -> Self {
        rounds.fold(Self::default(), |sums, round| Self {
            sent: sums.sent + round.sent,
            answered: sums.answered + round.answered,
            lost: sums.lost + round.lost(),
            late: sums.late + round.late,
            kept: sums.kept + round.kept,
            clock_changes: sums.clock_changes + round.clock_changes,
            lossy: sums.lossy + u32::from(round.lost() > 0),
        })
    }

    /// Share of lost probes. 0: none was sent.
    pub(super) fn loss(&self) -> f64 {
        f64::from(self.lost) / f64::from(self.sent.max(1))
    }

    fn is_lossy(&self) -> bool {
        self.lossy >= LOSSY && self.loss() >= LOSS
    }
}

/// Decides a round.
pub(super) fn decide(case: &Case<'_>) -> Decision {
    if case.round.is_silent() {
        return silent(case);
    }
    let (round, sums) = (case.round, &case.sums);
    let is_bad_path = case.paths.is_some_and(Paths::is_partly_bad);
    let (is_kept, is_late_here) = (
        2 * round.kept >= round.answered + round.late,
        2 * round.waited >= round.answered.max(1),
    );
    Some(if is_bad_path {
        (Verdict::Path, Reason::SomePaths)
    } else if case.is_delayed {
        (Verdict::Network, Reason::Delay)
    } else if is_kept || sums.is_lossy() && 2 * sums.kept >= sums.lost {
        (Verdict::Host, Reason::ReflectorStalled)
    } else if is_late_here {
        (Verdict::Host, Reason::SenderStalled)
    } else if sums.is_lossy() {
        (Verdict::Network, Reason::Loss)
    } else if case.clock_changed.is_some_and(|ago| ago < CLOCK_LASTS) {
        (Verdict::Clock, Reason::ClockChanged)
    } else if round.void > 0 {
        (Verdict::Clock, Reason::ImpossibleTimes)
    } else if round.refuted {
        (Verdict::Clock, Reason::ClaimsRefuted)
    } else {
        (Verdict::Ok, Reason::Fine)
    })
}

/// Decides a round in which nothing came back.
fn silent(case: &Case<'_>) -> Decision {
    let (refused, around) = (case.round.refused, case.surroundings);
    // What was before the silence says nothing of it.
    let is_alive = matches!(around.passive, Passive::Alive(age) if age <= case.silent_for);
    let is_looking = around.passive != Passive::Unknown && case.silent_for < LOOK;
    // The peer's kernel answered ARP or ND after the silence began.
    let is_confirmed =
        matches!(around.neighbour, Neighbour::Confirmed(age) if age < case.silent_for);
    let is_pending = match around.neighbour {
        Neighbour::Confirmed(_) => !is_confirmed && case.silent_for < PENDING,
        _ => false,
    };
    // Answers to the first silent train may still come late.
    let is_first = case.silent_for.is_zero();
    // Answers that came late before the silence were kept by the reflector.
    let was_kept = case.sums.kept > 0 && 2 * case.sums.kept >= case.sums.late;
    Some(if refused.prohibited > 0 {
        (Verdict::Blocked, Reason::Prohibited)
    } else if around.presence == Presence::Removed {
        (Verdict::Gone, Reason::NotInApi)
    } else if refused.port > 0 {
        (Verdict::Host, Reason::PortClosed)
    } else if was_kept {
        (Verdict::Host, Reason::ReflectorStalled)
    } else if is_alive && !is_first {
        (Verdict::Blocked, Reason::SilentWhileFlowsLive)
    } else if around.neighbour == Neighbour::Failed {
        (Verdict::Gone, Reason::NeighbourFailed)
    } else if refused.host > 0 {
        (Verdict::Gone, Reason::HostUnreachable)
    } else if case.paths.is_some_and(Paths::is_partly_bad) {
        (Verdict::Path, Reason::SomePaths)
    } else if refused.other > 0 {
        (Verdict::Network, Reason::NetworkUnreachable)
    } else if is_first || is_pending || is_looking {
        return None;
    } else {
        (Verdict::Network, Reason::Silent)
    })
}
