//! The kernel programs against the host model: the same packets through
//! `BPF_PROG_TEST_RUN` and through `lpm_common::model` must leave the same
//! flow table, histograms and counters, word for word.

mod fuzz;
mod pair;
mod queries;
mod random;
mod sequence;
mod tunnels;
mod vlans;
mod xdp;

use std::path::Path;

use lpm_common::{
    host::Arrival,
    layout::Methods,
    packet::Direction,
    parse::Link,
    testing::{
        frame::{Frame, layouts},
        vectors,
    },
};

use self::pair::Pair;

/// Interface 1 is the loopback of every network namespace: test runs want one
/// that exists.
const LOOPBACK: u32 = 1;
/// Longest frame that every kernel takes for a test run: it has to fit in a
/// page with its headroom.
const LONGEST: usize = 3_000;

#[test]
fn hand_made_flows_leave_the_same_state() {
    let mut pairs: Vec<(Methods, Pair)> = Vec::new();
    let mut too_long = Vec::new();
    for file in ["ts", "seq"] {
        let path = format!(
            "{}/../tests/vectors/{file}.json",
            env!("CARGO_MANIFEST_DIR")
        );
        for case in vectors::read(Path::new(&path)) {
            let methods = case.methods().unwrap_or(Methods::DEFAULT);
            if !pairs.iter().any(|(of, _)| *of == methods) {
                let Some(pair) = Pair::of_methods(methods) else {
                    return;
                };
                pairs.push((methods, pair));
            }
            let same = pairs.iter_mut().find(|(of, _)| *of == methods);
            let (_, pair) = same.expect("it was made");
            for v6 in [false, true] {
                if !leaves_the_same_state(pair, &case, v6) {
                    too_long.push(case.name.clone());
                }
            }
        }
    }
    println!("too long for a test run, host model only: {too_long:?}");
    assert!(too_long.len() <= 22, "{}", too_long.len());
}

/// False: a frame of it is too long.
fn leaves_the_same_state(pair: &mut Pair, case: &vectors::Case, v6: bool) -> bool {
    let model = pair.reset();
    let frames: Vec<_> = case.packets.iter().map(|p| p.frame(v6).bytes()).collect();
    if frames.iter().any(|frame| frame.len() > LONGEST) {
        return false;
    }
    for (frame, packet) in frames.iter().zip(&case.packets) {
        let arrival = packet.arrival(LOOPBACK);
        assert!(pair.packet(frame, &arrival));
        model.packet(frame, &arrival);
    }
    pair.assert_same(&model, &case.name);
    true
}

fn arrival(frame: &Frame, at: u64) -> Arrival {
    let direction = if frame.sport == 41140 {
        Direction::FromLocal
    } else {
        Direction::ToLocal
    };
    Arrival {
        now_ns: 1_000_000_000 + at,
        link: if frame.ethernet {
            Link::Ethernet
        } else {
            Link::Ip
        },
        direction,
        ifindex: LOOPBACK,
        vlan: 0,
        segments: 1,
        segment_size: 0,
    }
}

#[test]
fn every_layout_cut_at_every_byte_passes_and_leaves_the_same_state() {
    let Some(mut pair) = Pair::new() else { return };
    for v6 in [false, true] {
        let (local, remote) = vectors::ends(v6);
        for (name, frame) in layouts(local, remote, 41140, 5301) {
            let whole = frame.bytes();
            let model = pair.reset();
            // A test run wants more than an Ethernet header.
            for length in 15..=whole.len() {
                let arrival = arrival(&frame, length as u64 * 6400);
                if pair.packet(&whole[..length], &arrival) {
                    model.packet(&whole[..length], &arrival);
                }
            }
            pair.assert_same(&model, name);
        }
    }
}
