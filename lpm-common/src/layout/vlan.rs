//! The VLANs in which the directions of a flow were seen.

use core::mem::size_of;

use crate::packet::Direction;

/// Stands in place of VLAN ids for a direction that was not seen.
pub const UNSEEN: u32 = u32::MAX;

/// Value of map `VLAN_PAIRS`. The key is the fingerprint that the flow, or the
/// query, would have without a tag; see [`crate::vlan`]. The value is one word,
/// so that no reader sees half of one value and half of another.
///
/// | bits | what |
/// |---|---|
/// | 0..24 | VLAN ids, as in [`super::FlowCold::segment`], of what the local end sends; for a query, the query's own |
/// | 24..48 | VLAN ids of what is sent to the local end |
/// | 48, 49 | whether the first, the second ids were seen |
/// | 50 | the directions are joined |
/// | 51 | they are joined under the second one's VLAN |
/// | 52 | more than one VLAN shows the same direction, so nothing is joined |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct VlanPair(pub u64);

const IDS: u32 = 24;
const SEEN: u32 = 48;
const JOINED: u64 = 1 << 50;
const SECOND: u64 = 1 << 51;
const APART: u64 = 1 << 52;

impl VlanPair {
    /// Nothing was seen.
    pub const NOTHING: Self = Self(0);

    /// What is known when only this direction was seen, in this VLAN.
    #[inline(always)]
    #[must_use]
    pub const fn of(direction: Direction, vlan: u32) -> Self {
        Self::NOTHING.with(direction, vlan)
    }

    /// The VLAN ids of a direction, or [`UNSEEN`].
    #[inline(always)]
    #[must_use]
    pub const fn vlan(self, direction: Direction) -> u32 {
        let way = direction as u32;
        if self.0 >> (SEEN + way) & 1 == 0 {
            return UNSEEN;
        }
        (self.0 >> (IDS * way)) as u32 & ((1 << IDS) - 1)
    }

    /// Sets the VLAN ids of a direction.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, direction: Direction, vlan: u32) -> Self {
        let way = direction as u32;
        let mask = (1_u64 << IDS) - 1;
        let others = self.0 & !(mask << (IDS * way));
        Self(others | (vlan as u64 & mask) << (IDS * way) | 1 << (SEEN + way))
    }

    /// The direction under whose VLAN the other one was joined.
    #[inline(always)]
    #[must_use]
    pub const fn home(self) -> Option<Direction> {
        if self.0 & JOINED == 0 {
            None
        } else if self.0 & SECOND == 0 {
            Some(Direction::FromLocal)
        } else {
            Some(Direction::ToLocal)
        }
    }

    /// Notes that the directions are joined under the VLAN of `home`.
    #[inline(always)]
    #[must_use]
    pub const fn joined(self, home: Direction) -> Self {
        match home {
            Direction::FromLocal => Self(self.0 | JOINED),
            Direction::ToLocal => Self(self.0 | JOINED | SECOND),
        }
    }

    /// Whether more than one VLAN shows the same direction.
    #[inline(always)]
    #[must_use]
    pub const fn is_apart(self) -> bool {
        self.0 & APART != 0
    }

    /// Notes that more than one VLAN shows the same direction.
    #[inline(always)]
    #[must_use]
    pub const fn apart(self) -> Self {
        Self(self.0 & !(JOINED | SECOND) | APART)
    }
}

const _: () = assert!(size_of::<VlanPair>() == 8);

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{FromLocal, ToLocal};

    #[test]
    fn a_word_says_what_was_put_into_it() {
        let one = VlanPair::of(ToLocal, 0x00ff_ffff);
        assert_eq!(
            [FromLocal, ToLocal].map(|way| one.vlan(way)),
            [UNSEEN, 0x00ff_ffff]
        );
        let both = one.with(FromLocal, 0).with(ToLocal, 0x00a0_0001);
        assert_eq!(
            [FromLocal, ToLocal].map(|way| both.vlan(way)),
            [0, 0x00a0_0001]
        );
        assert_eq!(both.home(), None);
        for home in [FromLocal, ToLocal] {
            let joined = both.joined(home);
            assert_eq!(joined.home(), Some(home));
            assert_eq!(joined.vlan(home), both.vlan(home));
            assert_eq!(joined.apart(), both.apart());
        }
        assert!(both.apart().is_apart() && !both.is_apart());
    }
}
