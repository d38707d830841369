//! Random packets of a few flows that have to do with each other.

use lpm_common::testing::{
    frame::{Frame, layouts},
    vectors,
};
use proptest::prelude::*;

use super::{Pair, arrival};

/// A packet of one of a few flows, with values near each other so that
/// packets have to do with each other.
pub(crate) fn any_packet() -> impl Strategy<Value = (Frame, u64, u32)> {
    let timestamp = prop_oneof![
        8 => (0_u32..12, 0_u32..12).prop_map(Some),
        1 => Just(None),
        1 => any::<(u32, u32)>().prop_map(Some),
    ];
    let flags = prop_oneof![
        20 => Just(0x10_u8),
        2 => Just(0x02),
        2 => Just(0x12),
        2 => Just(0x11),
        1 => Just(0x14),
        1 => any::<u8>(),
    ];
    let size = prop_oneof![3 => Just(0_u32), 2 => 1_u32..200, 2 => Just(1448)];
    let gap =
        prop_oneof![8 => 0_u64..3_000_000, 1 => 0_u64..5_000_000_000, 1 => Just(250_000_000_000)];
    let numbers = (0_u32..6000, 0_u32..6000);
    let way = (any::<bool>(), any::<bool>(), 0_u16..2, 0_usize..40);
    (timestamp, flags, size, gap, numbers, way).prop_map(
        |(timestamp, flags, payload, gap, (seq, ack), (v6, from_local, port, shape))| {
            let (local, remote) = vectors::ends(v6);
            let layouts = layouts(local, remote, 41140, 5301 + port);
            let mut frame = match layouts.into_iter().nth(shape) {
                Some((_, frame)) => frame,
                None => Frame::new(local, remote, 41140, 5301 + port),
            };
            if !from_local {
                std::mem::swap(&mut frame.src, &mut frame.dst);
                std::mem::swap(&mut frame.sport, &mut frame.dport);
            }
            frame.timestamp = timestamp
                .map(|(tsval, tsecr)| (tsval.wrapping_mul(1000), tsecr.wrapping_mul(1000)));
            if flags & 2 != 0 {
                frame.mss = Some(1460);
            }
            (frame.seq, frame.ack, frame.flags, frame.payload) = (seq, ack, flags, payload);
            (frame, gap, if payload == 1448 { 2 } else { 1 })
        },
    )
}

#[test]
fn any_packets_leave_the_same_state() {
    any_packets(false);
}

#[test]
fn any_packets_at_joined_hooks_leave_the_same_state() {
    any_packets(true);
}

fn any_packets(joined: bool) {
    let Some(mut pair) = Pair::new() else { return };
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let pair = std::cell::RefCell::new(&mut pair);
    runner
        .run(&prop::collection::vec(any_packet(), 1..60), |packets| {
            let mut pair = pair.borrow_mut();
            let model = if joined {
                pair.reset_joined()
            } else {
                pair.reset()
            };
            let mut now = 0;
            for (frame, gap, segments) in packets {
                now += gap;
                let mut arrival = arrival(&frame, now);
                arrival.segments = segments;
                arrival.segment_size = if segments > 1 { 724 } else { 0 };
                let bytes = frame.bytes();
                if !joined {
                    assert!(pair.packet(&bytes, &arrival));
                    model.packet(&bytes, &arrival);
                } else if pair.joined_packet(&bytes, &arrival) {
                    model.joined_packet(&bytes, &arrival);
                }
            }
            pair.assert_same(&model, "random packets");
            Ok(())
        })
        .unwrap();
}
