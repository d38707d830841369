//! The programs that look into tunnels.

use std::path::Path;

use lpm_common::{
    parse::{Link, tunnel::TunnelPorts},
    testing::{
        frame::Frame,
        tunnel::{Around, wrap, wrappings},
        vectors,
    },
};
use proptest::prelude::*;

use super::{LONGEST, LOOPBACK, Pair, arrival, random::any_packet};

pub(crate) const TUNNELS: TunnelPorts = TunnelPorts {
    vxlan: [4789, 8472, 0, 0],
    geneve: [6081, 0, 0, 0],
};

fn around(frame: &Frame, wrapping: &[Around]) -> Vec<u8> {
    let to_local = frame.sport != 41140;
    let wrapping: Vec<Around> = wrapping
        .iter()
        .cloned()
        .map(|around| if to_local { around.back() } else { around })
        .collect();
    wrap(&frame.bytes(), &wrapping)
}

#[test]
fn every_tunnel_cut_at_every_byte_passes_and_leaves_the_same_state() {
    let Some(mut pair) = Pair::with(TUNNELS) else {
        return;
    };
    for v6 in [false, true] {
        let (local, remote) = vectors::ends(v6);
        for (name, wrapping) in wrappings() {
            let mut frame = Frame::new(local, remote, 41140, 5301);
            frame.payload = 10;
            frame.timestamp = Some((1000, 0));
            frame.ethernet = name != "Geneve, IP inside";
            let whole = around(&frame, &wrapping);
            if !wrapping[wrapping.len() - 1].ethernet {
                continue;
            }
            frame.ethernet = true;
            let model = pair.reset();
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

#[test]
fn hand_made_flows_inside_leave_the_same_state() {
    let Some(mut pair) = Pair::with(TUNNELS) else {
        return;
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/ts.json");
    let wrappings = wrappings();
    let cases = vectors::read(&path);
    for (case, (name, wrapping)) in cases.iter().zip(wrappings.iter().cycle()) {
        if !wrapping[wrapping.len() - 1].ethernet || *name == "Geneve, IP inside" {
            continue;
        }
        let model = pair.reset();
        let frames: Vec<_> = case
            .packets
            .iter()
            .map(|packet| around(&packet.frame(false), wrapping))
            .collect();
        if frames.iter().any(|frame| frame.len() > LONGEST) {
            continue;
        }
        for (frame, packet) in frames.iter().zip(&case.packets) {
            let arrival = packet.arrival(LOOPBACK);
            assert!(pair.packet(frame, &arrival));
            model.packet(frame, &arrival);
        }
        pair.assert_same(&model, &format!("{} in {name}", case.name));
    }
}

#[test]
fn any_packets_inside_leave_the_same_state() {
    let Some(pair) = Pair::with(TUNNELS) else {
        return;
    };
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 100,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let pair = std::cell::RefCell::new(pair);
    // Half of them in the commonest tunnel, so that the fast path has its share.
    let tunnel = prop_oneof![Just(0_usize), 0_usize..40];
    let damage = prop_oneof![9 => Just(None), 1 => (0_usize..120, any::<u8>()).prop_map(Some)];
    let packet = (any_packet(), tunnel, damage);
    runner
        .run(&prop::collection::vec(packet, 1..60), |packets| {
            let mut pair = pair.borrow_mut();
            let model = pair.reset();
            let mut now = 0;
            for ((frame, gap, segments), tunnel, damage) in packets {
                now += gap;
                let mut arrival = arrival(&frame, now);
                arrival.link = Link::Ethernet;
                arrival.segments = segments;
                arrival.segment_size = if segments > 1 { 724 } else { 0 };
                let wrapping = match wrappings().into_iter().nth(tunnel) {
                    Some((_, wrapping)) if wrapping[wrapping.len() - 1].ethernet => wrapping,
                    _ => Vec::new(),
                };
                let mut bytes = around(&frame, &wrapping);
                if let Some((at, byte)) = damage
                    && let Some(place) = bytes.get_mut(at)
                {
                    *place = byte;
                }
                if pair.packet(&bytes, &arrival) {
                    model.packet(&bytes, &arrival);
                }
            }
            pair.assert_same(&model, "random packets in tunnels");
            Ok(())
        })
        .unwrap();
}
