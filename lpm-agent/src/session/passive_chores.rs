//! The chores of housekeeping in a session that measures: windows, rows of what is gone, and the
//! names' ids in the kernel.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    identity::merge::{Delta, Moved},
    passive::Model,
};

/// Longest time between two searches for rows of what is gone.
const RECYCLE_EVERY: Duration = Duration::from_mins(1);

/// Shortest time between two runs that match connections to services with backends, when names
/// change.
const MATCH_EVERY: Duration = Duration::from_secs(1);

/// Intervals and lifetimes of the chores.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// Length of a window: each flow's minimum in this time is one observation.
    pub(super) window: Duration,
    /// How long the kernel programs work without a sign of life from the agent.
    pub(super) keep: Duration,
    /// How long the rows of namespaces, workloads and pods that are gone are kept.
    pub(super) keep_gone: Duration,
}

/// The chores, and when each was last done.
pub(super) struct PassiveChores {
    model: Arc<Model>,
    times: Times,
    window_ends: Instant,
    /// When rows of what is gone were last searched for.
    looked: Instant,
    /// Names have changed since connections were last matched with backends.
    renamed: bool,
    /// When connections were last matched with backends.
    matched: Instant,
}

impl PassiveChores {
    pub(super) fn new(model: Arc<Model>, times: Times) -> Self {
        let now = Instant::now();
        Self {
            model,
            times,
            window_ends: now + times.window,
            looked: now,
            renamed: false,
            matched: now,
        }
    }

    /// Ends the windows that are over. Returns the time until the current one ends. `settled`: all
    /// names are known, so that rows whose names are missing are those of what is gone.
    pub(super) fn end_windows(&mut self, settled: bool) -> Duration {
        loop {
            let left = self.window_ends.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                return left;
            }
            self.window_ends += self.times.window;
            if let Err(error) = self.model.end_window() {
                tracing::error!(%error, "the kernel's clocks cannot be read");
            }
            if let Err(error) = self.tell_apart() {
                tracing::error!(%error, "the busiest workloads, services and pods could not be selected");
            }
            if let Err(error) = self.recycle(settled) {
                tracing::error!(%error, "the histogram rows of deleted objects could not be freed");
            }
        }
    }

    /// Tells the kernel programs that the agent lives.
    pub(super) fn stay_awake(&self) -> io::Result<()> {
        self.model.tables().stay_awake(self.times.keep)
    }

    /// Counts the round trips under the names of these addresses' former owners. Call it before the
    /// registry has the new names.
    pub(super) fn count_late(&self, moved: &[Moved]) -> io::Result<()> {
        self.model.count_late(moved)
    }

    /// Makes the registry's changes in the kernel too.
    pub(super) fn follow(&self, deltas: &[Delta]) -> io::Result<()> {
        self.model.ids().follow(self.model.tables(), deltas)
    }

    /// Removes the names that an earlier agent left in the kernel and that nobody has given again.
    pub(super) fn settle(&self) -> io::Result<()> {
        self.model.ids().settle(self.model.tables())
    }

    /// Matches connections to services with backends again if names have changed, but not too
    /// often.
    pub(super) fn match_backends(&mut self, renamed: bool) {
        self.renamed |= renamed;
        if self.renamed && self.matched.elapsed() >= MATCH_EVERY {
            (self.renamed, self.matched) = (false, Instant::now());
            self.model.backends().refresh();
        }
    }

    /// Chooses which workloads and pods are told apart where not all can be: those with the most
    /// packets.
    fn tell_apart(&self) -> io::Result<()> {
        let ids = self.model.ids();
        if !ids.levels().any() {
            return Ok(());
        }
        let packets = self.model.packets_by_address(&self.model.clock()?);
        ids.tell_apart(self.model.tables(), &packets)
    }

    /// Reclaims the rows of what is gone, at intervals. It does nothing before all names are known.
    fn recycle(&mut self, settled: bool) -> io::Result<()> {
        let keep_gone = self.times.keep_gone;
        let every = (keep_gone / 10).min(RECYCLE_EVERY);
        let now = Instant::now();
        let Some(since) = now.checked_sub(keep_gone) else {
            return Ok(());
        };
        if !settled || now - self.looked < every {
            return Ok(());
        }
        self.looked = now;
        self.model.recycle(since)
    }
}
