//! Tells which earlier transmissions of a query may still be answered.
//!
//! An answer does not say which of several transmissions it belongs to. So no
//! answer makes a sample while an earlier transmission may still be answered.
//! Each transmission is outstanding until its own deadline, however often the
//! query is sent again. Each answer takes one transmission away, the latest
//! first, so an answer to a later one never renews the doubt.

use crate::layout::Phase;
#[cfg(doc)]
use crate::layout::QueryEntry;

/// Deadlines are kept in units of 2^26 ns (67 ms), in 8 bits: 17 s, more than
/// the longest timeout of a query.
const UNIT: u32 = 26;
/// Number of deadlines that are kept. Each has 8 bits; the earliest is lowest.
const SLOTS: u32 = 3;

const PHASE: u32 = 0b11;
/// Bit position of the number of deadlines that are kept.
const KEPT: u32 = 2;
/// Bit position of the number of further transmissions, for which there is no
/// place. The latest deadline stands for them, too.
const MORE: u32 = 4;
const MOST_MORE: u32 = 15;
const DEADLINES: u32 = 8;
/// The last place for a deadline.
const LATEST: u32 = 0xff_0000;

/// Value of [`QueryEntry::state`]. It holds the [`Phase`] of the latest
/// transmission in the low two bits. Above are the number of deadlines of
/// earlier transmissions that are kept (2 bits), the number of further
/// transmissions (4 bits), and the deadlines.
///
/// Deadlines are rounded up and stay where they are when the query is sent
/// again, so no rounding adds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outstanding(pub u32);

impl Outstanding {
    /// The state without any earlier transmission that may be answered.
    #[inline(always)]
    #[must_use]
    pub const fn none(phase: Phase) -> Self {
        Self(phase as u32)
    }

    /// What became of the latest transmission.
    #[inline(always)]
    #[must_use]
    pub const fn phase(self) -> Phase {
        Phase::of(self.0)
    }

    /// Replaces the phase.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, phase: Phase) -> Self {
        Self(self.0 & !PHASE | phase as u32)
    }

    /// Whether an earlier transmission may still be answered.
    #[inline(always)]
    #[must_use]
    pub const fn any(self) -> bool {
        self.kept() != 0
    }

    #[inline(always)]
    const fn kept(self) -> u32 {
        self.0 >> KEPT & 3
    }

    #[inline(always)]
    const fn more(self) -> u32 {
        self.0 >> MORE & MOST_MORE
    }

    #[inline(always)]
    const fn pack(self, kept: u32, more: u32, deadlines: u32) -> Self {
        let counts = kept << KEPT | more << MORE;
        Self(self.0 & PHASE | counts | deadlines << DEADLINES)
    }

    /// The state without transmissions whose deadline has passed. `sent_ns` is
    /// when the query passed the last time: deadlines lie within 17 s from then
    /// on.
    #[inline(always)]
    #[must_use]
    pub const fn at(self, sent_ns: u64, now_ns: u64) -> Self {
        if !self.any() {
            return self;
        }
        let passed = (now_ns >> UNIT).saturating_sub(sent_ns >> UNIT);
        let passed = if passed > 0xff { 0x100 } else { passed as u32 };
        let sent = (sent_ns >> UNIT) as u32;
        // If the latest one's time is up, so is that of all others.
        let latest = self.0 >> DEADLINES >> ((self.kept() - 1) * 8);
        if (latest.wrapping_sub(sent) & 0xff) < passed {
            return self.pack(0, 0, 0);
        }
        let mut left = self;
        let mut slot = 1;
        while slot < SLOTS {
            let (kept, more) = (left.kept(), left.more());
            let deadlines = left.0 >> DEADLINES;
            let until = deadlines.wrapping_sub(sent) & 0xff;
            if kept != 0 && until < passed {
                // There is room for one of the transmissions without a place.
                left = if more == 0 {
                    left.pack(kept - 1, 0, deadlines >> 8)
                } else {
                    left.pack(kept, more - 1, deadlines >> 8 | deadlines & LATEST)
                };
            }
            slot += 1;
        }
        left
    }

    /// The state with one more transmission, which may be answered until
    /// `deadline_ns`.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, deadline_ns: u64) -> Self {
        let (mut kept, mut more) = (self.kept(), self.more());
        if kept < SLOTS {
            kept += 1;
        } else if more < MOST_MORE {
            more += 1;
        }
        let shift = (kept - 1) & 3;
        let others = (self.0 >> DEADLINES) & ((1 << (shift * 8)) - 1);
        let deadline = (deadline_ns >> UNIT) as u32 & 0xff;
        self.pack(kept, more, others | deadline << (shift * 8))
    }

    /// The state without the latest of the earlier transmissions: it was
    /// answered.
    #[inline(always)]
    #[must_use]
    pub const fn less(self) -> Self {
        let (kept, more) = (self.kept(), self.more());
        if kept == 0 {
            return self;
        }
        let deadlines = self.0 >> DEADLINES;
        if more != 0 {
            return self.pack(kept, more - 1, deadlines);
        }
        let shift = (kept - 1) & 3;
        self.pack(kept - 1, 0, deadlines & ((1 << (shift * 8)) - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn each_is_there_until_its_own_time_is_up() {
        // Where the units begin anew, too.
        for sent in [S, (255 << UNIT) + 1, (256 << UNIT) - 1] {
            let open = Outstanding::none(Phase::Open);
            let mut all = open;
            for asked in 0..3 {
                all = all.and(sent + asked * S + 10 * S);
            }
            let last = sent + 3 * S;
            assert!(all.at(last, sent + 12 * S).any());
            assert_eq!(all.at(last, sent + 12 * S).kept(), 1);
            assert_eq!(all.at(last, sent + 9 * S), all);
            assert_eq!(all.at(last, sent + 12 * S + (1 << UNIT)), open);
            assert_eq!(all.at(last, u64::MAX), open);
            assert_eq!(all.less().less().less(), open);
            assert_eq!(all.less().less(), open.and(sent + 10 * S));
            assert_eq!(open.less(), open);
        }
    }

    #[test]
    fn the_latest_stands_for_what_has_no_place() {
        let open = Outstanding::none(Phase::Open);
        let mut all = open;
        for asked in 0..5 {
            all = all.and((10 + asked) * S);
        }
        assert_eq!((all.kept(), all.more()), (3, 2));
        let at = |now| all.at(5 * S, now).kept();
        assert_eq!((at(10 * S), at(11 * S), at(14 * S)), (3, 3, 3));
        assert_eq!(all.at(5 * S, 11 * S).more(), 1);
        let less = all.less().less();
        assert_eq!((less.kept(), less.more()), (3, 0));
        for _ in 0..40 {
            all = all.and(14 * S);
        }
        assert_eq!(all.more(), MOST_MORE);
        assert_eq!(all.at(5 * S, 15 * S), open);
    }
}
