//! A clock that a test bends: off, drifting, set, with claims of its own. Nothing that is configured
//! or given on a command line leads here.
//!
//! The bend is a function of the kernel's own time, which stays the truth: straight pieces, each
//! from a moment on. A packet's time is bent by the piece in which the kernel took it, however late
//! the program reads it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Claim, monotonic, real};

const BILLION: i128 = 1_000_000_000;

/// A straight piece.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// The first true moment, in nanoseconds since 1970.
    from: i64,
    /// What is added to `CLOCK_REALTIME` at that moment, in nanoseconds.
    offset: i64,
    /// What is added to `CLOCK_MONOTONIC` at that moment: drift alone, in nanoseconds.
    drifted: i64,
    /// Parts per billion that both gain.
    drift: i64,
}

impl Piece {
    /// What is gained since the piece began.
    fn gained(&self, at: i64) -> i64 {
        let passed = i128::from(at) - i128::from(self.from);
        i64::try_from(passed * i128::from(self.drift) / BILLION).unwrap_or(i64::MAX)
    }
}

#[derive(Debug)]
struct State {
    /// `CLOCK_REALTIME` less `CLOCK_MONOTONIC` of the machine.
    base: i64,
    pieces: Vec<Piece>,
    claim: Option<Claim>,
}

/// The handle by which a test bends a clock. Copies bend the same clock.
#[derive(Clone, Debug)]
pub struct Bend(Arc<Mutex<State>>);

impl Default for Bend {
    fn default() -> Self {
        // Where the program is interrupted in between, the two are of different moments.
        let both = || {
            let before = monotonic();
            let real = real();
            (monotonic() - before, real, before)
        };
        let (_, from, monotonic) = (0..8).map(|_| both()).min().unwrap_or_else(both);
        let state = State {
            base: from - monotonic,
            pieces: vec![Piece {
                from,
                offset: 0,
                drifted: 0,
                drift: 0,
            }],
            claim: None,
        };
        Self(Arc::new(Mutex::new(state)))
    }
}

impl Bend {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the clock by so many nanoseconds at a true moment: now, or later than all before.
    pub fn set(&self, at: i64, by: i64) {
        self.state().bend(at, by, None);
    }

    /// Lets the clock gain so many parts per billion from now on.
    pub fn drift(&self, drift: i64) {
        self.state().bend(real(), 0, Some(drift));
    }

    /// Lets the clock claim something, or nothing, whatever the kernel claims.
    pub fn claims(&self, error: Option<i64>) {
        self.state().claim = Some(Claim { error });
    }

    /// What the clock says at a true moment, both in nanoseconds since 1970.
    #[must_use]
    pub fn time(&self, at: i64) -> i64 {
        at + self.offset(at)
    }

    /// The truth: how far the clock is ahead at a true moment, in nanoseconds.
    #[must_use]
    pub fn offset(&self, at: i64) -> i64 {
        let piece = self.state().piece(at);
        piece.offset + piece.gained(at)
    }

    /// The true moments at which the clock says a time. Two, if it was set back over it; none, if it
    /// was set forward over it.
    #[must_use]
    pub fn moments(&self, said: i64) -> Vec<i64> {
        let state = self.state();
        let ends = state.pieces.iter().skip(1).map(|next| next.from);
        (state.pieces.iter())
            .zip(ends.chain([i64::MAX]))
            .filter_map(|(piece, end)| {
                let ahead = i128::from(said) - i128::from(piece.from) - i128::from(piece.offset);
                let passed = ahead * BILLION / (BILLION + i128::from(piece.drift));
                let at = piece.from + i64::try_from(passed).ok()?;
                let is_first = piece.from == state.pieces[0].from;
                ((is_first || piece.from <= at) && at < end).then_some(at)
            })
            .collect()
    }

    pub(super) fn monotonic(&self, at: i64) -> i64 {
        let state = self.state();
        let real = at + state.base;
        let piece = state.piece(real);
        at + piece.drifted + piece.gained(real)
    }

    pub(super) fn claim(&self) -> Option<Claim> {
        self.state().claim
    }
}

impl State {
    fn piece(&self, at: i64) -> Piece {
        let next = self.pieces.partition_point(|piece| piece.from <= at);
        // Before the first piece, its line goes on.
        self.pieces[next.saturating_sub(1)]
    }

    fn bend(&mut self, at: i64, by: i64, drift: Option<i64>) {
        let last = self.piece(i64::MAX);
        let from = at.max(last.from);
        let gained = last.gained(from);
        self.pieces.push(Piece {
            from,
            offset: last.offset + gained + by,
            drifted: last.drifted + gained,
            drift: drift.unwrap_or(last.drift),
        });
    }
}
