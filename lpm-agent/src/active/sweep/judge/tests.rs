//! Paths that are made: each packet's fate is drawn with a seed.

use proptest::prelude::*;

use super::*;

/// A path of so many probes. `share` is the part that is lost, `usual` the least delay in
/// nanoseconds; a tail of up to three times as much is added.
fn path(random: &mut fastrand::Rng, probes: u64, share: f64, usual: i64) -> Path {
    let mut lost = Share::default();
    let mut delays = Vec::new();
    for _ in 0..probes {
        let is_lost = random.f64() < share;
        lost.add(is_lost);
        if !is_lost {
            let tail = if random.u8(..10) == 0 { 3 } else { 1 };
            delays.push(usual + random.i64(0..usual) * tail);
        }
    }
    Path {
        lost,
        round_trips: delays.into_iter().collect(),
    }
}

fn bad(paths: &[Path]) -> Vec<usize> {
    let all = judge(paths);
    let bad = all
        .iter()
        .enumerate()
        .filter(|(_, grounds)| grounds.is_bad());
    bad.map(|(at, _)| at).collect()
}

/// 2,000 sweeps over 16 equally good paths, with no loss to 20 %, 50 probes each.
#[test]
fn false_alarms_are_as_rare_as_stated() {
    let mut random = fastrand::Rng::with_seed(14);
    for loss in [0.0, 0.001, 0.01, 0.05, 0.2] {
        let mut alarms = 0;
        for _ in 0..400 {
            let all: Vec<Path> = (0..16)
                .map(|_| path(&mut random, 50, loss, 50_000))
                .collect();
            alarms += u32::from(!bad(&all).is_empty());
        }
        println!("{loss} lost on all paths: {alarms} false alarms of 400");
        // The bound of the rule is 0.4 of 400: three have the chance 1 in 120.
        assert!(alarms <= 3, "{alarms} at {loss}");
    }
}

#[test]
fn a_single_loss_is_no_ground() {
    let mut random = fastrand::Rng::with_seed(1);
    for probes in [1, 2, 10, 100, 10_000] {
        let mut all: Vec<Path> = (0..16)
            .map(|_| path(&mut random, probes, 0.0, 50_000))
            .collect();
        all[3].lost.bad += 1;
        assert_eq!(bad(&all), [0; 0], "{probes}");
    }
}

/// Four probes a path are the fewest that can tell a dead path of 16.
#[test]
fn a_dead_path_is_named() {
    let mut random = fastrand::Rng::with_seed(2);
    for probes in [4, 10, 100] {
        let mut all: Vec<Path> = (0..16)
            .map(|_| path(&mut random, probes, 0.0, 50_000))
            .collect();
        all[7] = path(&mut random, probes, 1.0, 50_000);
        assert_eq!(bad(&all), [7], "{probes}");
    }
    let mut all: Vec<Path> = (0..16).map(|_| path(&mut random, 3, 0.0, 50_000)).collect();
    all[7] = path(&mut random, 3, 1.0, 50_000);
    assert_eq!(bad(&all), [0; 0]);
}

#[test]
fn many_bad_paths_are_all_named_and_all_alike_none() {
    let mut random = fastrand::Rng::with_seed(3);
    let of = |bad: usize, random: &mut fastrand::Rng| -> Vec<Path> {
        let loss = |at| if at < bad { 1.0 } else { 0.0 };
        (0..16)
            .map(|at| path(random, 50, loss(at), 50_000))
            .collect()
    };
    for count in [1, 2, 5, 8, 12] {
        let all = of(count, &mut random);
        assert_eq!(bad(&all), (0..count).collect::<Vec<_>>());
    }
    assert_eq!(bad(&of(16, &mut random)), [0; 0]);
}

#[test]
fn a_slow_path_is_named_and_a_slow_packet_is_not() {
    let mut random = fastrand::Rng::with_seed(4);
    let mut all: Vec<Path> = (0..16)
        .map(|_| path(&mut random, 30, 0.01, 60_000))
        .collect();
    all[2] = path(&mut random, 30, 0.01, 5_060_000);
    let grounds = judge(&all);
    assert!(grounds[2].delay.is_some() && grounds[2].loss.is_none());
    assert_eq!(bad(&all), [2]);
    // A third of its packets are slow, its median is not.
    let delays = (0..30).map(|at| if at < 10 { 5_000_000 } else { 70_000 });
    all[2].round_trips = delays.collect();
    assert_eq!(bad(&all), [0; 0]);
    // A path that is a little longer is no bad path.
    all[2] = path(&mut random, 3_000, 0.01, 75_000);
    assert_eq!(bad(&all), [0; 0]);
}

#[test]
fn nothing_is_bad_without_others() {
    assert_eq!(judge(&[]), []);
    let dead = Path {
        lost: Share { bad: 50, all: 50 },
        ..Path::default()
    };
    assert_eq!(bad(std::slice::from_ref(&dead)), [0; 0]);
    assert_eq!(bad(&[dead, Path::default()]), [0; 0]);
}

proptest! {
    /// One path of 4 to 64 that loses 30 % beside others that lose up to 1 % is named, and alone,
    /// with 60 probes each.
    #[test]
    fn thirty_percent_are_found(paths in 4_usize..64, at in 0_usize..64, loss in 0.0..0.01, seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        let at = at % paths;
        let all: Vec<Path> = (0..paths)
            .map(|one| path(&mut random, 60, if one == at { 0.3 } else { loss }, 50_000))
            .collect();
        // 18 are lost on average. Of four paths, ten more losses than the others would not do.
        prop_assume!(all[at].lost.bad >= 14);
        let bad = bad(&all);
        prop_assert!(bad.contains(&at), "{bad:?}");
        prop_assert!(bad.len() <= 2, "{bad:?}");
    }

    /// The order of the paths does not count.
    #[test]
    fn the_order_does_not_count(lost in proptest::collection::vec(0_u64..=30, 2..12), turn in 0_usize..12) {
        let make = |lost: &u64| Path {
            lost: Share { bad: *lost, all: 30 },
            round_trips: (*lost..30).map(|_| 50_000).collect(),
        };
        let of = |lost: &[u64]| -> Vec<u64> {
            let all: Vec<Path> = lost.iter().map(make).collect();
            let mut bad: Vec<u64> = bad(&all).into_iter().map(|at| lost[at]).collect();
            bad.sort_unstable();
            bad
        };
        let mut turned = lost.clone();
        turned.rotate_left(turn % lost.len());
        prop_assert_eq!(of(&turned), of(&lost));
    }
}
