//! Which earlier askings of a question may still be answered.
//!
//! An answer does not say which of several askings it belongs to. So while an
//! earlier one may still be answered, no answer makes a sample. Each asking is
//! outstanding until its own time is up, however often the question is sent
//! again; and each answer takes one away, that of the latest asking first, so
//! that an answer to one of the later ones never renews the doubt.

use crate::layout::Phase;
#[cfg(doc)]
use crate::layout::QueryEntry;

/// Deadlines are kept in units of 2^26 ns (67 ms), 8 bits: 17 s, more than the
/// longest time that an answer has.
const UNIT: u32 = 26;
/// Deadlines that are kept, each of 8 bits, the earliest in the lowest.
const SLOTS: u32 = 3;

const PHASE: u32 = 0b11;
/// Number of deadlines that are kept.
const KEPT: u32 = 2;
/// Number of askings beyond them, if there is no place for more; the latest
/// deadline stands for these too.
const MORE: u32 = 4;
const MOST_MORE: u32 = 15;
const DEADLINES: u32 = 8;
/// The last place for one.
const LATEST: u32 = 0xff_0000;

/// A [`QueryEntry::state`]: the [`Phase`] of the latest asking in the low two
/// bits, then how many deadlines of earlier ones are kept (2 bits), how many
/// askings there are beyond these (4 bits), and the deadlines.
///
/// Deadlines are rounded up and stay where they are when the question is sent
/// again, so no rounding adds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outstanding(pub u32);

impl Outstanding {
    /// No earlier asking may be answered.
    #[inline(always)]
    #[must_use]
    pub const fn none(phase: Phase) -> Self {
        Self(phase as u32)
    }

    /// What became of the latest asking.
    #[inline(always)]
    #[must_use]
    pub const fn phase(self) -> Phase {
        Phase::of(self.0)
    }

    /// The same with another phase.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, phase: Phase) -> Self {
        Self(self.0 & !PHASE | phase as u32)
    }

    /// Whether earlier askings may be answered.
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

    /// Without those whose time is up. `sent_ns` is when the question passed
    /// the last time: deadlines are within 17 s from then on.
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
                // Room for one of those that have none.
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

    /// With one more, which may be answered until then.
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

    /// Without the latest of them: it was answered.
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
