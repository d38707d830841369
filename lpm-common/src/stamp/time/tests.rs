//! Timestamps at the edges of their eras, and estimates beside the errors that they stand for.

use proptest::prelude::*;

use super::{ErrorEstimate, Format, Timestamp};

/// 28 October 2026, 22:07:29.5 UTC.
const NOW: u64 = 1_793_225_249_500_000_000;

/// RFC 5905 section 6, figure 4: the era's first second, and the one before it.
#[test]
fn ntp_timestamps_pass_the_end_of_their_era() {
    let at = |seconds: u64| seconds * 1_000_000_000;
    let end = 2_085_978_496; // 7 February 2036, 06:28:16 UTC.
    assert_eq!(
        Timestamp::from_unix(at(end - 1), Format::Ntp).0 >> 32,
        0xffff_ffff
    );
    let first = Timestamp::from_unix(at(end) + 1, Format::Ntp);
    assert_eq!(first.0 >> 32, 0);
    assert_eq!(first.to_unix(Format::Ntp, at(end - 60)), Some(at(end) + 1));
    let last = Timestamp::from_unix(at(end - 1), Format::Ntp);
    assert_eq!(last.to_unix(Format::Ntp, at(end + 60)), Some(at(end - 1)));
    assert_eq!(
        Timestamp(0x7000_0000_0000_0000).to_unix(Format::Ntp, 0),
        None,
        "the year 1959"
    );
    assert_eq!(Timestamp(0).to_unix(Format::Ntp, NOW), None);
    assert_eq!(
        Timestamp(0x6000_0000_3b9a_ca00).to_unix(Format::Ptp, NOW),
        None
    );
}

/// RFC 4656 section 4.1.2: Multiplier * 2^-32 * 2^Scale seconds.
#[test]
fn an_error_estimate_is_never_below_the_error() {
    assert_eq!(
        ErrorEstimate(0x0001).nanoseconds(),
        Some(1),
        "2^-32 seconds are 0.23 ns"
    );
    assert_eq!(ErrorEstimate(0x2001).nanoseconds(), Some(1_000_000_000));
    assert_eq!(ErrorEstimate(0x3fff).nanoseconds(), Some(u64::MAX));
    assert_eq!(
        ErrorEstimate(0x2000).nanoseconds(),
        None,
        "the packet is corrupt"
    );
    assert_eq!(ErrorEstimate::new(true, Format::Ptp, 0).0, 0xc001);
}

proptest! {
    #[test]
    fn timestamps_come_back_to_the_nanosecond(
        nanoseconds in 1_u64..8_000_000_000_000_000_000,
        distance in -2_000_000_000_i64..2_000_000_000,
    ) {
        let near = nanoseconds.saturating_add_signed(distance * 1_000_000_000);
        for format in [Format::Ntp, Format::Ptp] {
            let timestamp = Timestamp::from_unix(nanoseconds, format);
            prop_assume!(timestamp.0 != 0);
            prop_assert_eq!(timestamp.to_unix(format, near), Some(nanoseconds));
        }
    }

    #[test]
    fn estimates_round_up_by_less_than_a_hundredth(nanoseconds in 0_u64..1 << 62) {
        let estimate = ErrorEstimate::new(false, Format::Ntp, nanoseconds);
        let error = estimate.nanoseconds().expect("a multiplier");
        prop_assert!(error >= nanoseconds);
        prop_assert!(error - nanoseconds <= nanoseconds / 100 + 1, "{error} for {nanoseconds}");
    }
}
