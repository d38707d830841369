//! Fixed lines: the truth is what the wire's log says.

use std::time::Duration;

use lpm_agent::active::{
    clock::real,
    offset::Basis,
    plan::Train,
    report::{Answered, Report, TrainEnd},
};
use lpm_testbed::testbed::{Direction, Impairment, wire::Record};

use super::{Scene, median, ms};
use crate::support::turn;

const MS: i64 = 1_000_000;

/// What a claim of each end is in these tests.
const CLAIM: i64 = 25_000;

/// Five trains of 20, 1 ms apart.
fn measure(scene: &Scene) -> (Vec<Answered>, Vec<TrainEnd>) {
    let plan = scene.plan(5, Train::default(), Duration::from_millis(50));
    let (mut answered, mut ends) = (Vec::new(), Vec::new());
    scene.send(plan, |report| match report {
        Report::Answered(one) => answered.push(one.clone()),
        Report::Train(end) => ends.push(*end),
        Report::Numbered { .. } => {}
        other => panic!("{other:?}"),
    });
    assert_eq!((answered.len(), ends.len()), (100, 5));
    (answered, ends)
}

/// The median delay of the wire's own log, one way.
fn on_wire(scene: &Scene, direction: Direction) -> i64 {
    let records = scene.pair.wire().records();
    let delays = records
        .iter()
        .filter(|record| record.direction == direction);
    let delays = delays.filter_map(Record::delay_ns);
    median(
        delays
            .map(|delay| i64::try_from(delay).expect("a short delay"))
            .collect(),
    )
}

/// The true delays of a packet by both clocks, whose bends are known.
fn truth(scene: &Scene, answered: &Answered) -> [i64; 2] {
    let stamps = answered.stamps.expect("no clock was set");
    let truths = scene.truths(&stamps, 0);
    assert_eq!(truths.len(), 1, "{stamps:?}");
    truths[0]
}

fn ways(answered: &Answered) -> [i64; 2] {
    let stamps = answered.stamps.expect("no clock was set");
    let known = answered.offset.expect("bounds");
    known.ways(&stamps).expect("possible times")
}

fn assert_bounds(answered: &Answered, [there, back]: [i64; 2]) {
    let delays = answered.delays.expect("bounds");
    assert!(delays.forward.contains(there), "{there} not in {delays:?}");
    assert!(delays.backward.contains(back), "{back} not in {delays:?}");
}

/// 2 ms there and 10 ms back. With claims, each way is within 50 us of the truth, for an error that
/// the claims cover. Without, the bounds are those of the round trip, and the estimate is unproven.
#[test]
fn a_claim_gives_each_way_and_without_one_there_are_bounds() {
    turn::take();
    let wire = [2, 10].map(|delay| Impairment::delay(Duration::from_millis(delay)));
    let scene = Scene::new(Some(wire), |here, there| {
        // The clocks do not agree, but keep their claims.
        for (bend, off) in [(here, -20_000), (there, 20_000)] {
            bend.claims(Some(CLAIM));
            bend.set(real(), off);
        }
    });
    let (answered, ends) = measure(&scene);
    let (mut there, mut back, mut off) = (Vec::new(), Vec::new(), 0);
    for one in &answered {
        let (truth, best) = (truth(&scene, one), ways(one));
        assert_bounds(one, truth);
        off = off
            .max((best[0] - truth[0]).abs())
            .max((best[1] - truth[1]).abs());
        there.push(best[0]);
        back.push(best[1]);
    }
    let wire = [
        on_wire(&scene, Direction::Forward),
        on_wire(&scene, Direction::Backward),
    ];
    eprintln!(
        "with a claim of 50 us: there {} (wire {}), back {} (wire {}); most off {off} ns",
        ms(median(there.clone())),
        ms(wire[0]),
        ms(median(back.clone())),
        ms(wire[1])
    );
    assert!(off <= 50_000, "{off}");
    assert!(ends.iter().all(|end| {
        end.offset
            .is_some_and(|known| known.estimate.basis == Basis::Claim)
    }));
    // The wire's log ends when the wire sends; a busy machine takes its time from there.
    for (ours, wire) in [(there, wire[0]), (back, wire[1])] {
        assert!((median(ours) - wire).abs() < MS);
    }

    scene.here.claims(None);
    let (answered, ends) = measure(&scene);
    let mut widest = [0, 0];
    for one in &answered {
        assert_bounds(one, truth(&scene, one));
        let delays = one.delays.expect("bounds");
        let least = one.stamps.expect("times").round_trip().expect("possible");
        for (widest, bounds) in widest.iter_mut().zip([delays.forward, delays.backward]) {
            // The two clocks that tell the round trip may drift apart by 1000 ppm.
            assert!(bounds.lower >= 0 && bounds.upper <= least + least / 500);
            *widest = bounds.upper.max(*widest);
        }
    }
    // The train's least round trip is the width of what is unknown.
    for end in &ends {
        let known = end.offset.expect("bounds");
        let width = known.bounds.upper - known.bounds.lower;
        assert!((11 * MS..14 * MS).contains(&width), "{known:?}");
        assert!(known.bounds.contains(40_000), "{known:?}");
    }
    let basis = |end: &TrainEnd| end.offset.expect("bounds").estimate.basis;
    assert!(ends.iter().all(|end| basis(end) == Basis::Unproven));
    eprintln!(
        "without a claim: there 0..{}, back 0..{}, unproven",
        ms(widest[0]),
        ms(widest[1])
    );
}

/// A clock is 3 ms off and claims 25 us. On a line of 1 ms the bounds refute it. On one of 12 ms they
/// cannot: the best estimate is wrong by as much, and the bounds hold.
#[test]
fn a_silent_error_is_refuted_where_the_line_is_short_enough() {
    turn::take();
    let micros = Duration::from_micros;
    for (there, back, expected) in [
        (micros(500), micros(500), Basis::Refuted),
        (micros(2_000), micros(10_000), Basis::Claim),
    ] {
        let wire = [there, back].map(Impairment::delay);
        let scene = Scene::new(Some(wire), |here_clock, there_clock| {
            here_clock.claims(Some(CLAIM));
            there_clock.claims(Some(CLAIM));
            there_clock.set(real(), 3 * MS);
        });
        let (answered, ends) = measure(&scene);
        let mut off = Vec::new();
        for one in &answered {
            let truth = truth(&scene, one);
            assert_bounds(one, truth);
            off.push((ways(one)[0] - truth[0]).abs());
        }
        for end in &ends {
            let known = end.offset.expect("bounds");
            assert_eq!(known.estimate.basis, expected);
            assert!(known.bounds.contains(3 * MS), "{known:?}");
        }
        let known = ends[0].offset.expect("bounds");
        eprintln!(
            "3 ms silently off, {there:?} there and {back:?} back: {} of {} trains refuted; the \
             offset is in {}..{}, best {}; the best way there is off by {}",
            ends.iter()
                .filter(|end| basis_of(end) == Basis::Refuted)
                .count(),
            ends.len(),
            ms(known.bounds.lower),
            ms(known.bounds.upper),
            ms(known.estimate.offset),
            ms(median(off.clone()))
        );
        // The claim is believed, so the estimate is wrong by what it hides.
        assert!(expected == Basis::Refuted || off.iter().all(|off| *off > 29 * MS / 10));
    }
}

fn basis_of(end: &TrainEnd) -> Basis {
    end.offset.expect("bounds").estimate.basis
}
