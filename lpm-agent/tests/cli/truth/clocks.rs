//! Clocks that are off, drift and are set: the bounds contain the truth every time.

use std::{env, time::Duration};

use lpm_agent::active::{
    clock::real,
    offset::Basis,
    plan::Train,
    report::{Report, Void},
};

use super::{Scene, ms};
use crate::support::turn;

const MS: i64 = 1_000_000;

/// Trains in each of the scenes: so many that all together are more than 10,000.
const MANY: u32 = 2_100;

/// Trains in each scene of a plain run.
const FEW: u32 = 60;

/// A train of 20 probes that takes 2 ms.
const TRAIN: Train = Train {
    probes: 20,
    spacing: Duration::from_micros(100),
};

/// What was seen in a scene.
#[derive(Debug, Default)]
struct Seen {
    trains: u32,
    packets: u64,
    outside: u64,
    /// Packets whose time a clock said twice.
    ambiguous: u64,
    void: u64,
    impossible: u64,
    settings: u64,
    restarts: u64,
    refuted: u32,
    claimed: u32,
    widest: i64,
}

/// Sends trains, calls `before` for each one that comes next, and holds each packet's bounds against
/// the truth.
fn run(name: &str, scene: &Scene, trains: u32, mut before: impl FnMut(&Scene) -> bool) -> Seen {
    let mut seen = Seen::default();
    let plan = scene.plan(trains, TRAIN, Duration::from_millis(4));
    let mut since = real();
    scene.send(plan, |report| match report {
        Report::Answered(answered) => {
            seen.packets += 1;
            let stamps = match answered.stamps {
                Ok(stamps) => stamps,
                Err(Void::Clock) => {
                    seen.void += 1;
                    return;
                }
                Err(Void::Impossible) => {
                    seen.impossible += 1;
                    eprintln!("IMPOSSIBLE {name}: {answered:?}");
                    return;
                }
            };
            let truths = scene.truths(&stamps, since - 50 * MS);
            seen.ambiguous += u64::from(truths.len() > 1);
            let delays = answered.delays.expect("bounds");
            seen.widest = seen.widest.max(delays.forward.upper - delays.forward.lower);
            let holds = truths.iter().any(|[there, back]| {
                delays.forward.contains(*there) && delays.backward.contains(*back)
            });
            if !holds {
                seen.outside += 1;
                eprintln!("{name}: {truths:?} outside of {answered:?}");
            }
        }
        Report::Train(end) => {
            seen.trains += 1;
            let basis = end.offset.map(|known| known.estimate.basis);
            seen.refuted += u32::from(basis == Some(Basis::Refuted));
            seen.claimed += u32::from(basis == Some(Basis::Claim));
            since = real();
            seen.settings += u64::from(before(scene));
        }
        Report::Restarted(_) => seen.restarts += 1,
        // A busy machine may lose or delay a packet.
        Report::Numbered { .. } | Report::Lost { .. } | Report::Late { .. } => {}
        other => panic!("{name}: {other:?}"),
    });
    eprintln!(
        "{name}: {} trains, {} packets, {} outside of their bounds; widest {}; {} settings, {} \
         windows begun anew, {} packets void, {} impossible, {} ambiguous; claims: {} believed, {} \
         refuted",
        seen.trains,
        seen.packets,
        seen.outside,
        ms(seen.widest),
        seen.settings,
        seen.restarts,
        seen.void,
        seen.impossible,
        seen.ambiguous,
        seen.claimed,
        seen.refuted
    );
    assert_eq!((seen.trains, seen.outside), (trains, 0), "{name}");
    assert_eq!(seen.impossible, 0, "{name}");
    seen
}

fn scenes(trains: u32) -> u32 {
    let mut sum = 0;
    let off = 100 * MS;
    for (name, claim) in [
        ("100 ms off, openly", 150 * MS),
        ("100 ms off, silently", 50_000),
    ] {
        let scene = Scene::new(None, |here, there| {
            here.claims(Some(10_000));
            there.claims(Some(claim));
            there.set(real(), off);
        });
        let seen = run(name, &scene, trains, |_| false);
        let is_open = claim > off;
        assert_eq!(seen.claimed == trains, is_open, "{name}");
        assert_eq!(seen.refuted == trains, !is_open, "{name}");
        assert_eq!((seen.void, seen.restarts), (0, 0), "{name}");
        sum += seen.trains;
    }
    for (name, drift_here, drift_there) in [
        ("drifting by 200 ppm there", 0, 200_000),
        ("drifting apart by 400 ppm", 200_000, -200_000),
    ] {
        let scene = Scene::new(None, |here, there| {
            here.drift(drift_here);
            there.drift(drift_there);
        });
        let seen = run(name, &scene, trains, |_| false);
        assert_eq!(seen.restarts, 0, "{name}: within the allowance");
        // Where the reflector sat on a packet for milliseconds, the drift is more than the way.
        assert!(seen.void <= seen.packets / 1_000, "{name}: {seen:?}");
        sum += seen.trains;
    }
    for (name, is_here) in [
        ("set in mid-train there", false),
        ("set in mid-train here", true),
    ] {
        let scene = Scene::new(None, |_, _| {});
        let mut random = fastrand::Rng::with_seed(u64::from(trains));
        let seen = run(name, &scene, trains, |scene| {
            let bend = if is_here { &scene.here } else { &scene.there };
            // From a microsecond to a second, some of them back.
            let by = 10_f64.powf(3.0 + 6.0 * random.f64());
            #[allow(clippy::cast_possible_truncation, reason = "below 2^63")]
            let by = if random.u8(..4) == 0 {
                -(by as i64) - 60 * MS
            } else {
                by as i64
            };
            bend.set(real() + random.i64(0..6 * MS), by);
            true
        });
        assert!(seen.restarts >= u64::from(trains) / 2, "{name}");
        assert!(seen.void < seen.packets / 2, "{name}");
        sum += seen.trains;
    }
    sum
}

/// Off by 100 ms openly and silently, drifting by 200 ppm, set in mid-train: the bounds contain the
/// truth every time. `LPM_TRAINS=all` sends more than 10,000 trains.
#[test]
fn the_bounds_contain_the_truth_every_time() {
    turn::take();
    let is_long = env::var_os("LPM_TRAINS").is_some();
    let sum = scenes(if is_long { MANY } else { FEW });
    eprintln!("{sum} trains in all");
    assert!(!is_long || sum > 10_000);
}

/// A clock that somebody slews by 5 % is said to, its drift is allowed from then on, and the bounds
/// hold.
#[test]
fn a_clock_that_leaves_its_rate_begins_a_window() {
    turn::take();
    for is_here in [false, true] {
        let scene = Scene::new(None, |_, _| {});
        let mut left = 0;
        let seen = run("slewed by 5 % from train 10 on", &scene, 40, |scene| {
            left += 1;
            if left == 10 {
                let bend = if is_here { &scene.here } else { &scene.there };
                bend.drift(50_000_000);
            }
            left == 10
        });
        assert!((1..10).contains(&seen.restarts), "{seen:?}");
    }
}
