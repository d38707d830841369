//! The XDP programs: what a card receives goes through them, what it sends
//! through TC, and both into one flow.

use aya::{
    TestRun,
    programs::{TestRunOptions, Xdp},
};
use lpm_common::{
    host::Arrival,
    packet::Direction,
    parse::{Link, tunnel::TunnelPorts},
    testing::{
        frame::{Frame, layouts},
        tunnel::{wrap, wrappings},
        vectors,
    },
};
use proptest::prelude::*;

use super::{Pair, random::any_packet};

const XDP_PASS: u32 = 2;

const TUNNELS: TunnelPorts = TunnelPorts {
    vxlan: [4789, 8472, 0, 0],
    geneve: [6081, 0, 0, 0],
};

/// A frame with the time before it, and the `struct xdp_md` that says so.
fn with_clock(frame: &[u8], now_ns: u64) -> (Vec<u8>, Vec<u8>) {
    let data = [&now_ns.to_ne_bytes()[..], frame].concat();
    // Where data begins and ends, where its metadata begin; interface and queue
    // are the loopback's if none is named.
    let end = u32::try_from(data.len()).unwrap();
    let context = [8, end, 0, 0, 0, 0].map(u32::to_ne_bytes).concat();
    (data, context)
}

impl Pair {
    /// By XDP what comes, by TC what goes. False: this kernel's test run does
    /// not take such a frame.
    pub(crate) fn xdp_packet(&mut self, frame: &[u8], arrival: &Arrival) -> bool {
        if arrival.direction == Direction::FromLocal {
            return self.packet(frame, arrival);
        }
        let inside = self.tunnels != TunnelPorts::default();
        let name = if inside { "lpm_xdp_inner" } else { "lpm_xdp" };
        let (data, context) = with_clock(frame, arrival.now_ns);
        let mut options = TestRunOptions::new();
        options.data_in = Some(&data);
        options.ctx_in = Some(&context);
        let program = self.kernel.ebpf_mut().program_mut(name).unwrap();
        let program: &mut Xdp = program.try_into().unwrap();
        match program.test_run(options) {
            Ok(result) => assert_eq!(result.return_value, XDP_PASS, "{name}"),
            Err(error) => panic!("{name}, {} bytes: {error}", frame.len()),
        }
        true
    }
}

/// From 5.14 on a test run of XDP takes metadata.
pub(crate) fn takes_metadata(pair: &mut Pair) -> bool {
    let (data, context) = with_clock(&[0; 64], 1);
    let mut options = TestRunOptions::new();
    options.data_in = Some(&data);
    options.ctx_in = Some(&context);
    let program = pair.kernel.ebpf_mut().program_mut("lpm_xdp").unwrap();
    let program: &mut Xdp = program.try_into().unwrap();
    let takes = program.test_run(options).is_ok();
    if !takes {
        println!("LPM-SKIP differential: this kernel's test run of XDP takes no metadata (5.14)");
    }
    takes
}

fn arrival(frame: &Frame, at: u64) -> Arrival {
    Arrival {
        link: Link::Ethernet,
        ..super::arrival(frame, at)
    }
}

#[test]
fn every_layout_cut_at_every_byte_passes_xdp_and_leaves_the_same_state() {
    let Some(mut pair) = Pair::new() else { return };
    if !takes_metadata(&mut pair) {
        return;
    }
    for v6 in [false, true] {
        let (local, remote) = vectors::ends(v6);
        for (name, frame) in layouts(remote, local, 5301, 41140) {
            let whole = frame.bytes();
            let model = pair.reset();
            for length in 15..=whole.len() {
                let arrival = arrival(&frame, length as u64 * 6400);
                assert!(pair.xdp_packet(&whole[..length], &arrival));
                model.packet(&whole[..length], &arrival);
            }
            pair.assert_same(&model, name);
        }
    }
}

#[test]
fn any_packets_by_xdp_leave_the_same_state() {
    any_packets_by_xdp(TunnelPorts::default());
}

#[test]
fn any_packets_inside_by_xdp_leave_the_same_state() {
    any_packets_by_xdp(TUNNELS);
}

fn any_packets_by_xdp(tunnels: TunnelPorts) {
    let Some(mut pair) = Pair::with(tunnels) else {
        return;
    };
    if !takes_metadata(&mut pair) {
        return;
    }
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 100,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let pair = std::cell::RefCell::new(pair);
    let packet = (any_packet(), prop_oneof![Just(0_usize), 0_usize..40]);
    runner
        .run(&prop::collection::vec(packet, 1..60), |packets| {
            let mut pair = pair.borrow_mut();
            let model = pair.reset();
            let mut now = 0;
            for ((frame, gap, _), tunnel) in packets {
                now += gap;
                let arrival = arrival(&frame, now);
                let wrapping = match wrappings().into_iter().nth(tunnel) {
                    _ if tunnels == TunnelPorts::default() => Vec::new(),
                    Some((_, wrapping)) => wrapping,
                    None => Vec::new(),
                };
                let bytes = wrap(&frame.bytes(), &wrapping);
                if pair.xdp_packet(&bytes, &arrival) {
                    model.packet(&bytes, &arrival);
                }
            }
            pair.assert_same(&model, "random packets by XDP");
            Ok(())
        })
        .unwrap();
}
