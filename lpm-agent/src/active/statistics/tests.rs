use proptest::prelude::*;

use super::*;

#[test]
fn percentiles_are_delays_that_occurred() {
    let delays: Distribution = (1..=10).map(|nth| nth * 100).collect();
    assert_eq!(delays.percentile(50), Some(500));
    assert_eq!(delays.percentile(90), Some(900));
    assert_eq!(delays.percentile(99), Some(1_000));
    assert_eq!(delays.percentile(0), Some(100));
    assert_eq!(delays.mean(), Some(550));
    assert_eq!(Distribution::default().mean(), None);
    assert_eq!(Distribution::default().percentile(50), None);
}

/// Transits of one window with these forward delays, sent 20 ms apart.
fn transits(forward: &[i64]) -> Vec<Transit> {
    let stamps = |(nth, delay): (i64, &i64)| Stamps {
        sent: nth * 20_000_000,
        reflector_received: nth * 20_000_000 + delay,
        reflector_sent: nth * 20_000_000 + delay,
        received: nth * 20_000_000 + delay + 7,
    };
    let all = (0..).zip(forward).map(stamps);
    all.map(|stamps| Transit::of(0, &stamps)).collect()
}

fn forward_jitter(forward: &[i64]) -> Option<f64> {
    jitter(&transits(forward), Way::Forward)
}

/// RFC 3550 appendix A.8, worked by hand: differences 16, 16 and 0.
#[test]
fn jitter_gains_a_sixteenth_of_each_difference() {
    assert_eq!(forward_jitter(&[100, 116, 100, 100]), Some(1.816_406_25));
    assert_eq!(forward_jitter(&[100]), None);
    assert_eq!(forward_jitter(&[5, 5, 5]), Some(0.0));
    let all = transits(&[100, 116, 100, 100]);
    assert_eq!(jitter(&all, Way::Backward), Some(0.0), "always 7 ns");
}

/// A setting of a clock between two packets is no jitter and no variation.
#[test]
fn packets_of_two_windows_are_not_compared() {
    let mut all = transits(&[100, 116, 1_000_100, 1_000_116]);
    for one in &mut all[2..] {
        one.window = 1;
    }
    assert_eq!(jitter(&all, Way::Forward), Some(1.937_5), "16 and 16");
    assert_eq!(variation(&all, Way::Forward).max(), Some(16));
    assert_eq!(jitter(&[all[0], all[2]], Way::Forward), None);
}

/// Each delay less the least one (RFC 5481 section 4.2), with the latencies of its examples: 20, 10,
/// 20, 25 and 20 give 10, 0, 10, 15 and 10.
#[test]
fn variation_is_that_of_rfc_5481() {
    let expected: Distribution = [10, 0, 10, 15, 10].into_iter().collect();
    let all = transits(&[20, 10, 20, 25, 20]);
    assert_eq!(variation(&all, Way::Forward), expected);
    assert_eq!(variation(&[], Way::Forward), Distribution::default());
}

/// RFC 4737 section 7.1, example: 1, 2, 3, 7, 4, 5, 6, 8, 9, 10. Packets 4, 5 and 6 are
/// reordered with extents 1, 2 and 3.
#[test]
fn reordering_is_that_of_rfc_4737() {
    let expected = Reordering {
        received: 10,
        reordered: 3,
        extent: 3,
    };
    assert_eq!(reordering([1, 2, 3, 7, 4, 5, 6, 8, 9, 10]), expected);
    let ratio = expected.ratio().expect("packets");
    assert!((ratio - 0.3).abs() < 1e-9, "section 4.1.1: 3 of 10");
    assert_eq!(reordering([]).ratio(), None);
    let none = reordering([1, 2, 2, 3, 1, 9]);
    assert_eq!((none.received, none.reordered, none.extent), (4, 0, 0));
}

#[test]
fn a_gap_tells_how_many_of_its_packets_arrived() {
    let answer = |packet, reflected| Answer { packet, reflected };
    let gap = |first, missing, received| Gap {
        first,
        missing,
        received,
    };
    let answers = [
        answer(1, Some(0)),
        answer(4, Some(3)),
        answer(4, Some(4)),
        answer(8, Some(6)),
        answer(10, None),
    ];
    let expected = [
        gap(0, 1, Some(0)),
        gap(2, 2, Some(2)),
        gap(5, 3, Some(1)),
        gap(9, 1, None),
    ];
    assert_eq!(gaps(&answers), expected);
    assert_eq!(
        gaps(&[answer(0, Some(0)), answer(2, Some(9))])[0].received,
        None
    );
}

#[test]
fn copies_are_told_by_their_way() {
    let answer = |packet, reflected| Answer { packet, reflected };
    let answers = [
        answer(0, Some(0)),
        answer(0, Some(1)),
        answer(1, Some(2)),
        answer(1, Some(2)),
        answer(1, Some(3)),
        answer(2, None),
        answer(2, None),
    ];
    assert_eq!(duplicated(&answers), [2, 1]);
}

proptest! {
    /// A path that loses and duplicates: each gap tells how many packets arrived.
    #[test]
    fn gaps_are_those_of_the_path(
        fates in proptest::collection::vec(0_u8..5, 1..200),
    ) {
        let (mut count, mut answers) = (0, Vec::new());
        let (mut truth, mut gap) = (Vec::new(), None);
        for (packet, fate) in (0..).zip(&fates) {
            let answer = |count| Answer { packet, reflected: Some(count) };
            if *fate < 2 {
                let open: &mut Gap = gap.get_or_insert(Gap {
                    first: packet,
                    missing: 0,
                    received: Some(0),
                });
                open.missing += 1;
                // Lost on the way back: the reflector received it.
                if *fate == 1 {
                    open.received = open.received.map(|received| received + 1);
                    count += 1;
                }
                continue;
            }
            truth.extend(gap.take());
            match fate {
                // Twice on the way there.
                2 => {
                    answers.extend([answer(count), answer(count + 1)]);
                    count += 2;
                }
                // Twice on the way back.
                3 => {
                    answers.extend([answer(count), answer(count)]);
                    count += 1;
                }
                _ => {
                    answers.push(answer(count));
                    count += 1;
                }
            }
        }
        prop_assert_eq!(gaps(&answers), truth);
    }

    /// The C code of RFC 3550 appendix A.8, on packets in the order of arrival.
    #[test]
    fn jitter_is_that_of_the_rfcs_code(
        delays in proptest::collection::vec(0_i64..60_000_000, 2..60),
    ) {
        let mut arrivals: Vec<(i64, i64)> = (0..).zip(&delays)
            .map(|(nth, delay)| (nth * 20_000_000 + delay, nth * 20_000_000))
            .collect();
        arrivals.sort_by_key(|(arrival, _)| *arrival);
        let (mut transit, mut jitter) = (arrivals[0].0 - arrivals[0].1, 0.0);
        for (arrival, timestamp) in arrivals.into_iter().skip(1) {
            let now = arrival - timestamp;
            let mut d = now - transit;
            transit = now;
            if d < 0 {
                d = -d;
            }
            #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
            let d = d as f64;
            jitter += (1.0 / 16.0) * (d - jitter);
        }
        let ours = forward_jitter(&delays).expect("several packets");
        // Packets that arrive at the same nanosecond have no order.
        let same = {
            let mut at: Vec<i64> = (0..).zip(&delays).map(|(nth, d)| nth * 20_000_000 + d).collect();
            at.sort_unstable();
            at.windows(2).any(|pair| pair[0] == pair[1])
        };
        prop_assert!(same || (ours - jitter).abs() <= 1e-6 * jitter.max(1.0), "{} {}", ours, jitter);
    }

    /// An independent reading of RFC 4737 section 3.3 and 4.2.1, packet by packet.
    #[test]
    fn reordering_is_that_of_a_plain_reading(
        numbers in proptest::collection::vec(0_u32..60, 0..60),
    ) {
        let mut once: Vec<u32> = Vec::new();
        for number in numbers.iter().copied() {
            if !once.contains(&number) {
                once.push(number);
            }
        }
        let mut expected = Reordering { received: once.len() as u64, ..Reordering::default() };
        for (at, number) in once.iter().enumerate() {
            if let Some(first) = once[..at].iter().position(|other| other > number) {
                expected.reordered += 1;
                expected.extent = expected.extent.max((at - first) as u64);
            }
        }
        prop_assert_eq!(reordering(numbers), expected);
    }
}
