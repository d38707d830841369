//! The bits of [`crate::layout::DirectionHot::state`], and small encodings.
//!
//! Only packets of a direction write the direction's state. So the two CPUs
//! that serve a flow's directions never write the same word, except where a
//! flow begins anew.

use crate::layout::SLOTS;

/// A TSval was seen: strictly newer ones are edges.
pub const HAS_TSVAL: u32 = 1 << 0;
/// A TSecr was seen: only strictly newer ones are echoes.
pub const HAS_TSECR: u32 = 1 << 1;
/// The sender sent FIN.
pub const FIN: u32 = 1 << 2;
/// The sender sent RST.
pub const RST: u32 = 1 << 3;
/// TSvals older than the newest are coming, or packets (with timestamps or
/// without) that do not fit the direction's method: see
/// [`crate::layout::FlowCold::stale`]. Without [`HAS_TSVAL`] and [`SEQ`]: the
/// flow was silent for long, and any TSval but the last one is new.
pub const STALE: u32 = 1 << 4;
/// The part of [`crate::layout::FlowCold::stale`] that is a time.
pub(super) const SINCE: u32 = (1 << ROW_SHIFT) - 1;
/// Lowest bit of the rest of that word: the number of odd packets in a row.
pub(super) const ROW_SHIFT: u32 = 28;
/// Slots of this direction were used at some time, so echoes must look at them.
pub const STAMPED: u32 = 1 << 5;
/// First of [`SLOTS`] bits, one per slot: the second full segment after the
/// slot's stamp has not passed yet.
pub const PENDING: u32 = 1 << 6;
/// All of the pending bits.
pub const ANY_PENDING: u32 = ((1 << SLOTS) - 1) * PENDING;
/// The highest end of sequence is known.
pub const HAS_SEQ: u32 = 1 << 9;
/// The sender's packets carry no timestamps, or these are not used. The
/// direction's slots hold ends of sequence, and its newest "TSecr" is an
/// acknowledgment number.
pub const SEQ: u32 = 1 << 10;
/// The sender's last packet was a SYN. If both directions have the bit, the
/// handshake has not ended. While method `handshake` is on, the first slot
/// holds the stamp of the SYN.
pub const HANDSHAKE: u32 = 1 << 11;
/// Either way to close the connection.
pub const CLOSING: u32 = FIN | RST;
/// If of these bits only those of [`CALM`] are set, a packet with known
/// timestamps that follows the last one has nothing to tell.
pub const RESTLESS: u32 = CALM | STALE | ANY_PENDING | SEQ | HANDSHAKE | RST;
/// The bits that a calm flow has set; see [`RESTLESS`].
pub const CALM: u32 = HAS_TSVAL | HAS_SEQ;
/// Bits that one method leaves behind and the other must not find.
pub(super) const METHOD: u32 = HAS_TSVAL | HAS_TSECR | STALE | STAMPED | ANY_PENDING;

/// Lowest of the upper bits. They hold the low bits of the TSval, or of the end
/// of sequence in KiB, before which nothing is stamped.
const HOLD_SHIFT: u32 = 12;
/// Distance beyond which the low bits of the held TSval say nothing any more.
pub(super) const MAX_HOLD: u32 = 1 << (31 - HOLD_SHIFT - 1);

/// The state with another TSval before which nothing is stamped.
#[inline(always)]
pub(super) fn with_hold(state: u32, tsval: u32) -> u32 {
    (state & ((1 << HOLD_SHIFT) - 1)) | (tsval << HOLD_SHIFT)
}

/// Whether the TSval lies before the one that the state holds stamping until.
#[inline(always)]
pub(super) fn holds(state: u32, tsval: u32) -> bool {
    let until = state & !((1 << HOLD_SHIFT) - 1);
    until.wrapping_sub(tsval << HOLD_SHIFT).cast_signed() > 0
}

/// The second full segment has not passed, or its length is unknown.
pub(super) const NOT_COMPLETE: u16 = u16::MAX;
const COARSE: u16 = 0x8000;
const COARSE_UNITS: u32 = 128;

/// Encodes the time from the stamped segment to the one that completed the
/// second full segment, from units of 64 ns to 16 bits. Exact up to 2 ms, then
/// in steps of 8 us rounded up; longer than 268 ms is [`NOT_COMPLETE`].
#[inline(always)]
pub(super) fn encode_second(units: u32) -> u16 {
    if units < u32::from(COARSE) {
        return units as u16;
    }
    let steps = units.div_ceil(COARSE_UNITS);
    let most = u32::from(NOT_COMPLETE - 1 - COARSE);
    if steps > most {
        return NOT_COMPLETE;
    }
    COARSE | steps as u16
}

/// Decodes the time into units of 64 ns.
#[inline(always)]
pub(super) fn decode_second(second: u16) -> u32 {
    if second & COARSE == 0 {
        u32::from(second)
    } else {
        u32::from(second & !COARSE) * COARSE_UNITS
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_took_too_long_is_not_called_short() {
        // 3 s: with a round trip of a minute they would pass for prompt.
        assert_eq!(encode_second(46_875_000), NOT_COMPLETE);
        assert_ne!(encode_second(4_000_000), NOT_COMPLETE);
    }

    proptest! {
        #[test]
        fn second_is_never_shortened(units in 0_u32..4_000_000) {
            let decoded = decode_second(encode_second(units));
            prop_assert!(decoded >= units && decoded <= units + COARSE_UNITS);
        }

        #[test]
        fn hold_ends_at_its_tsval(tsval: u32, gap in 1_u32..MAX_HOLD) {
            let until = tsval.wrapping_add(gap);
            let state = with_hold(HAS_TSVAL | STALE, until);
            prop_assert_eq!(state & (HAS_TSVAL | STALE), HAS_TSVAL | STALE);
            prop_assert!(holds(state, tsval));
            prop_assert!(holds(state, until.wrapping_sub(1)));
            prop_assert!(!holds(state, until));
            prop_assert!(!holds(state, until.wrapping_add(MAX_HOLD)));
        }
    }
}
