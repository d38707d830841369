use proptest::prelude::*;

use super::*;

const MS: i64 = 1_000_000;

/// A packet over a path with known delays, to a clock that is `offset` ahead.
fn packet(at: i64, forward: i64, backward: i64, offset: i64) -> (i64, Stamps) {
    let sent = 1_800_000_000_000_000_000 + at;
    let there = sent + forward;
    let back = there + 5_000;
    let stamps = Stamps {
        sent,
        reflector_received: there + offset,
        reflector_sent: back + offset,
        received: back + backward,
    };
    (at, stamps)
}

/// 2 ms there and 10 ms back, with clocks that agree.
#[test]
fn without_a_claim_each_way_is_bounded_by_the_round_trip() {
    let mut offset = ClockOffset::new(0);
    let (at, stamps) = packet(0, 2 * MS, 10 * MS, 0);
    assert_eq!(offset.take([(at, stamps)]), Ok(()));
    let delays = offset.delays(at, &stamps).expect("bounds");
    let all = Bounds {
        lower: 0,
        upper: 12 * MS,
    };
    assert_eq!((delays.forward, delays.backward), (all, all));
    let bounds = offset.at(at).expect("bounds");
    let (lower, upper) = (-10 * MS, 2 * MS);
    assert_eq!(bounds, Bounds { lower, upper });
    let estimate = estimate(bounds, None);
    assert_eq!(estimate.basis, Basis::Unproven);
    assert_eq!(estimate.offset, -4 * MS);
}

#[test]
fn a_claim_chooses_within_the_bounds_and_never_narrows_them() {
    let bounds = Bounds {
        lower: -10 * MS,
        upper: 2 * MS,
    };
    let believed = estimate(bounds, Some(50_000));
    assert_eq!((believed.basis, believed.offset), (Basis::Claim, 0));
    // A silent error of 3 ms on a line of 1 ms.
    let bounds = Bounds {
        lower: 2 * MS + MS / 2,
        upper: 3 * MS + MS / 2,
    };
    let refuted = estimate(bounds, Some(50_000));
    assert_eq!((refuted.basis, refuted.offset), (Basis::Refuted, 3 * MS));
}

#[test]
fn a_clock_that_was_set_begins_the_window_anew() {
    let mut offset = ClockOffset::new(1_000);
    assert_eq!(offset.take([packet(0, 50_000, 50_000, 0)]), Ok(()));
    let moved = packet(1_000 * MS, 50_000, 50_000, 5 * MS);
    assert_eq!(offset.take([moved]), Err(Restart::Contradiction));
    let bounds = offset.at(moved.0).expect("the train itself");
    assert!(bounds.contains(5 * MS) && !bounds.contains(0));
    // Set in mid-train: nothing is known.
    let stepped = [
        packet(2_000 * MS, 50_000, 50_000, 0),
        packet(2_001 * MS, 50_000, 50_000, 9 * MS),
    ];
    assert_eq!(offset.take(stepped), Err(Restart::Contradiction));
    assert_eq!(offset.at(2_001 * MS), None);
}

#[test]
fn impossible_times_count_for_nothing() {
    let mut offset = ClockOffset::new(0);
    let (at, mut stamps) = packet(0, MS, MS, 0);
    stamps.reflector_sent += 3 * MS;
    assert_eq!(
        stamps.round_trip(),
        None,
        "a dwell longer than the round trip"
    );
    assert_eq!(offset.take([(at, stamps)]), Ok(()));
    assert_eq!(offset.at(at), None);
    stamps.reflector_sent = i64::MIN;
    assert_eq!(stamps.dwell(), None);
    assert_eq!(offset.delays(at, &stamps), None);
}

proptest! {
    /// Whatever the delays are, as long as the clock keeps to its allowance: the bounds contain
    /// the truth, at each packet of each train.
    #[test]
    fn the_bounds_contain_the_truth(
        first in -200 * MS..200 * MS,
        drift in -200_000_i64..=200_000,
        trains in proptest::collection::vec(
            (1_i64..100_000, proptest::collection::vec((0..3 * MS, 0..3 * MS), 1..20)),
            1..20,
        ),
    ) {
        let mut offset = ClockOffset::new(200_000);
        let mut at = 0;
        for (pause, delays) in trains {
            at += pause * MS;
            let truth = |at: i64| {
                let moved = i128::from(at) * i128::from(drift) / BILLION;
                first + i64::try_from(moved).expect("a small offset")
            };
            let train: Vec<_> = (0_i64..).zip(&delays)
                .map(|(nth, (there, back))| {
                    let at = at + nth * MS;
                    (packet(at, *there, *back, truth(at)), *there, *back)
                })
                .collect();
            prop_assert_eq!(offset.take(train.iter().map(|(packet, ..)| *packet)), Ok(()));
            for ((at, stamps), there, back) in &train {
                let bounds = offset.at(*at).expect("bounds");
                prop_assert!(bounds.contains(truth(*at)));
                let round_trip = there + back;
                // The allowance over a round trip of 6 ms is 1.2 us.
                prop_assert!(bounds.upper - bounds.lower <= round_trip + 2 * 1_202);
                let ways = offset.delays(*at, stamps).expect("bounds");
                prop_assert!(ways.forward.contains(*there) && ways.backward.contains(*back));
            }
        }
    }

    /// Clocks that wander within their allowances, are set now and then, and say so: the bounds
    /// contain the truth at each packet of each train, before a setting and after it. A packet over
    /// a setting is left out, as the sender leaves it out.
    #[test]
    fn the_bounds_contain_the_truth_across_settings(
        first in -200 * MS..200 * MS,
        trains in proptest::collection::vec(
            (
                0_i64..2_000,
                -900_000_i64..=900_000,
                proptest::option::weighted(0.3, (0_usize..20, -300 * MS..300 * MS)),
                proptest::collection::vec((0..MS, 0..MS), 20),
            ),
            1..30,
        ),
    ) {
        let mut offset = ClockOffset::new(900_000);
        let (mut at, mut ahead) = (0, first);
        for (pause, rate, set, delays) in trains {
            let gained = |passed: i64| passed * rate / 1_000_000_000;
            ahead += gained(pause * MS);
            at += pause * MS;
            let mut part: Vec<((i64, Stamps), i64, i64, i64)> = Vec::new();
            for (nth, (there, back)) in delays.iter().enumerate() {
                if let Some((place, by)) = set && place == nth {
                    check(&mut offset, &part)?;
                    part.clear();
                    offset.restart();
                    ahead += by;
                }
                part.push((packet(at, *there, *back, ahead), *there, *back, ahead));
                ahead += gained(MS);
                at += MS;
            }
            check(&mut offset, &part)?;
        }
    }
}

/// Hands packets to the offset, and holds the bounds against their true delays and offsets.
fn check(
    offset: &mut ClockOffset,
    part: &[((i64, Stamps), i64, i64, i64)],
) -> Result<(), TestCaseError> {
    let taken = offset.take(part.iter().map(|(packet, ..)| *packet));
    prop_assert_eq!(taken, Ok(()));
    for ((at, stamps), there, back, truth) in part {
        let bounds = offset.at(*at).expect("bounds");
        prop_assert!(bounds.contains(*truth), "{} not in {:?}", truth, bounds);
        let ways = offset.delays(*at, stamps).expect("bounds");
        prop_assert!(ways.forward.contains(*there) && ways.backward.contains(*back));
        for claims in [None, Some(0), Some(300 * MS)] {
            let claims = Claims {
                here: claims,
                there: claims,
            };
            let known = Known::new(bounds, claims);
            prop_assert_eq!(known.bounds, bounds, "a claim narrows nothing");
            prop_assert!(bounds.contains(known.estimate.offset));
        }
    }
    Ok(())
}

/// A clock that left its rate widens what was known before, and a window that begins anew has the
/// new allowance alone.
#[test]
fn a_window_keeps_the_largest_drift_that_it_was_allowed() {
    let mut offset = ClockOffset::new(1_000_000);
    let known = packet(0, 50_000, 50_000, 0);
    assert_eq!(offset.take([known]), Ok(()));
    let width = |offset: &ClockOffset| {
        let bounds = offset.at(1_000 * MS).expect("bounds");
        bounds.upper - bounds.lower
    };
    let before = width(&offset);
    offset.allow(10_000);
    assert_eq!(width(&offset), before);
    offset.allow(2_000_000);
    assert!(width(&offset) > before + 19 * MS / 10);
    offset.restart();
    offset.allow(10_000);
    assert_eq!(offset.take([known]), Ok(()));
    assert!(width(&offset) < before);
}

#[test]
fn the_best_ways_are_those_of_the_estimate_and_sum_up_to_the_round_trip() {
    let (_, stamps) = packet(0, 2 * MS, 10 * MS, 30_000);
    let bounds = Bounds {
        lower: -10 * MS,
        upper: 2 * MS,
    };
    let claims = Claims {
        here: Some(20_000),
        there: Some(30_000),
    };
    let known = Known::new(bounds, claims);
    assert_eq!(
        known.ways(&stamps),
        Some([2 * MS + 30_000, 10 * MS - 30_000])
    );
    let unproven = Known::new(
        bounds,
        Claims {
            there: None,
            ..claims
        },
    );
    assert_eq!(unproven.estimate.basis, Basis::Unproven);
    assert_eq!(
        unproven.ways(&stamps),
        Some([6 * MS + 30_000, 6 * MS - 30_000])
    );
}
