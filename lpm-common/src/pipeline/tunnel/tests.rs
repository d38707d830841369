use core::sync::atomic::Ordering::Relaxed;
use std::{vec, vec::Vec};

use crate::{
    counter::Counter,
    host::{Arrival, Model, Settings},
    layout::{FlowEntry, Method, Methods, Tunnel, TunnelKind, Vantage, tunnel::tunnels},
    packet::{Direction, flag},
    parse::{Link, tunnel::TunnelPorts},
    testing::{
        frame::Frame,
        tunnel::{Around, wrap, wrappings},
        vectors,
    },
};

const SETTINGS: Settings = Settings {
    query_entries: 16,
    flow_entries: 512,
    rows: 8,
    seeds: [
        0x9e37_79b9,
        0x7f4a_7c15,
        0xf39c_c060,
        0x5ced_c834,
        0x1082_276b,
        0xf3a2_7251,
        0xf86c_6a11,
        0xd0c1_8e95,
        0x2767_f0b1,
        0x53d2_7b7f,
        0x0347_0ab0,
        0x4e5b_2b71,
        0x7a8d_12ef,
        0x61c8_8647,
    ],
    hz: 250,
    idle_seconds: 60,
    methods: Methods(Method::Ts.bit()),
};

fn model() -> Model {
    let mut model = Model::new(SETTINGS);
    model.tunnels = TunnelPorts {
        vxlan: [4789, 8472, 0, 0],
        geneve: [6081, 0, 0, 0],
    };
    model
}

fn arrival(now_ns: u64, direction: Direction) -> Arrival {
    Arrival {
        now_ns: 1_000_000_000 + now_ns,
        link: Link::Ethernet,
        direction,
        ifindex: 2,
        vlan: 0,
        segments: 1,
        segment_size: 0,
    }
}

/// A flow's packet; all flows here have the same addresses and ports.
fn packet(direction: Direction, tsval: u32, tsecr: u32) -> Frame {
    let (local, remote) = vectors::ends(false);
    let mut frame = match direction {
        Direction::FromLocal => Frame::new(local, remote, 41140, 5301),
        Direction::ToLocal => Frame::new(remote, local, 5301, 41140),
    };
    frame.timestamp = Some((tsval, tsecr));
    frame.payload = 100;
    frame
}

fn around(direction: Direction, around: &[Around]) -> Vec<Around> {
    let turn = |around: &Around| match direction {
        Direction::FromLocal => around.clone(),
        Direction::ToLocal => around.clone().back(),
    };
    around.iter().map(turn).collect()
}

/// A round trip of 5 ms, and another of 7 ms; times in microseconds.
fn talk(model: &Model, at: u64, wrapping: &[Around]) {
    use Direction::{FromLocal, ToLocal};
    for (at, direction, tsval, tsecr) in [
        (at, FromLocal, 1, 1),
        (at + 10, ToLocal, 1, 1),
        (at + 1000, FromLocal, 2, 1),
        (at + 6000, ToLocal, 2, 2),
        (at + 7000, FromLocal, 3, 2),
        (at + 14_000, ToLocal, 3, 3),
    ] {
        let frame = packet(direction, tsval, tsecr).bytes();
        let frame = wrap(&frame, &around(direction, wrapping));
        model.packet(&frame, &arrival(at * 1000, direction));
    }
}

fn entries(model: &Model) -> Vec<&FlowEntry> {
    let taken = |entry: &&FlowEntry| entry.fingerprint.load(Relaxed) != 0;
    model.flows.iter().filter(taken).collect()
}

/// Round trips of the remote leg, in units of 64 ns, in order.
fn remote(model: &Model) -> Vec<u32> {
    let samples = model.samples.borrow();
    let remote = samples.iter().filter(|sample| sample.leg == 0);
    remote.map(|sample| sample.units).collect()
}

const SAMPLES: [u32; 2] = [5_000_000 / 64, 7_000_000 / 64];

fn vxlan(vni: u32) -> Around {
    Around::new(TunnelKind::Vxlan, vni)
}

fn geneve(vni: u32) -> Around {
    Around::new(TunnelKind::Geneve, vni)
}

#[test]
fn the_inner_flow_is_measured_and_knows_its_tunnels() {
    let one = |kind, vni| Some(Tunnel { kind, vni });
    for (wrapping, expected) in [
        (vec![vxlan(7)], [one(TunnelKind::Vxlan, 7), None]),
        (vec![vxlan(0)], [one(TunnelKind::Vxlan, 0), None]),
        (vec![vxlan(7).v6()], [one(TunnelKind::Vxlan, 7), None]),
        (
            vec![geneve(0xff_ffff)],
            [one(TunnelKind::Geneve, 0xff_ffff), None],
        ),
        (
            vec![vxlan(7), vxlan(0xab_cdef)],
            [one(TunnelKind::Vxlan, 0xab_cdef), one(TunnelKind::Vxlan, 7)],
        ),
        (
            vec![geneve(7), vxlan(3)],
            [one(TunnelKind::Vxlan, 3), one(TunnelKind::Geneve, 7)],
        ),
    ] {
        let model = model();
        talk(&model, 0, &wrapping);
        assert_eq!(remote(&model), SAMPLES, "{wrapping:?}");
        let entries = entries(&model);
        assert_eq!(entries.len(), 1, "fast and slow path agree: {wrapping:?}");
        let cold = &entries[0].cold;
        assert_eq!(
            tunnels(cold.segment.load(Relaxed), cold.outer_vni()),
            expected
        );
        assert_eq!(model.counter(Counter::SkippedNotTcp), 0);
    }
}

#[test]
fn same_addresses_in_different_networks_stay_apart() {
    let tagged = |mut around: Around| {
        around.tags = vec![(0x8100, 9)];
        around
    };
    let networks = [
        vec![],
        vec![vxlan(1)],
        vec![vxlan(2)],
        vec![geneve(1)],
        vec![tagged(vxlan(1))],
        vec![vxlan(1), vxlan(2)],
        vec![vxlan(2), vxlan(1)],
        vec![vxlan(1), vxlan(1)],
        vec![vxlan(1), vxlan(0)],
        vec![geneve(1), vxlan(2)],
        vec![vxlan(1), geneve(2)],
        vec![vxlan(1), tagged(vxlan(2))],
        vec![vxlan(1), vxlan(0x1_0002)],
    ];
    let model = model();
    for (number, network) in (0..).zip(&networks) {
        // One after the other within the round trip: were two of them one
        // flow, the second's timestamps would be known already.
        talk(&model, number * 100, network);
    }
    assert_eq!(entries(&model).len(), networks.len());
    assert_eq!(remote(&model), SAMPLES.repeat(networks.len()));
}

#[test]
fn inner_tags_tell_networks_apart() {
    let model = model();
    for id in [0, 5, 6] {
        for direction in [Direction::FromLocal, Direction::ToLocal] {
            let mut frame = packet(direction, 1, 1);
            if id != 0 {
                frame.tags = vec![(0x8100, id)];
            }
            let frame = wrap(&frame.bytes(), &around(direction, &[vxlan(1)]));
            model.packet(&frame, &arrival(0, direction));
        }
    }
    assert_eq!(entries(&model).len(), 3);
}

#[test]
fn what_cannot_be_measured_is_counted_with_its_reason() {
    let expected = |name: &str| match name {
        "VxLAN, not a tunnel's port" => Some(Counter::SkippedNotTcp),
        "VxLAN, first fragment" | "VxLAN, last fragment" => Some(Counter::SkippedFragment),
        "VxLAN without VNI"
        | "VxLAN, too long"
        | "VxLAN, no room"
        | "Geneve, lying options"
        | "Geneve, version 1" => Some(Counter::SkippedMalformed),
        // The inner packet has less than its header says.
        "VxLAN, too short" => Some(Counter::SkippedTruncated),
        "VxLAN with next protocol" | "Geneve, control" | "Geneve, unknown protocol" => {
            Some(Counter::SkippedNotIp)
        }
        "three levels" | "VxLAN in VxLAN, tag between" => Some(Counter::SkippedTooDeep),
        _ => None,
    };
    for (name, wrapping) in wrappings() {
        let model = model();
        let mut frame = packet(Direction::FromLocal, 1, 0);
        frame.ethernet = name != "Geneve, IP inside";
        let bytes = wrap(&frame.bytes(), &wrapping);
        let mut arrival = arrival(0, Direction::FromLocal);
        if name == "VxLAN, no Ethernet header" {
            arrival.link = Link::Ip;
        }
        model.packet(&bytes, &arrival);
        let skipped: Vec<Counter> = Counter::ALL
            .iter()
            .copied()
            .filter(|counter| counter.metric().0 == "parse_skipped" && model.counter(*counter) > 0)
            .collect();
        assert_eq!(skipped, Vec::from_iter(expected(name)), "{name}");
        assert_eq!(
            entries(&model).is_empty(),
            expected(name).is_some(),
            "{name}"
        );
    }
}

#[test]
fn cut_at_every_byte_it_is_never_measured() {
    for (name, wrapping) in wrappings() {
        let bytes = wrap(&packet(Direction::FromLocal, 1, 0).bytes(), &wrapping);
        let model = model();
        for length in 0..bytes.len() {
            model.packet(&bytes[..length], &arrival(0, Direction::FromLocal));
        }
        assert!(entries(&model).is_empty(), "{name}");
        let skipped: u64 = Counter::ALL
            .iter()
            .filter(|counter| counter.metric().0 == "parse_skipped")
            .map(|counter| model.counter(*counter))
            .sum();
        assert_eq!(skipped, bytes.len() as u64, "each once: {name}");
    }
}

#[test]
fn merged_segments_count_as_on_the_wire() {
    for (wrapping, segments) in [(vec![vxlan(7)], 10), (vec![geneve(7), vxlan(3)], 10)] {
        let model = model();
        for tsval in [1, 2] {
            let mut frame = packet(Direction::FromLocal, tsval, 0);
            frame.payload = 10_000;
            let mut arrival = arrival(0, Direction::FromLocal);
            (arrival.segments, arrival.segment_size) = (segments, 1000);
            model.packet(&wrap(&frame.bytes(), &wrapping), &arrival);
        }
        let entries = entries(&model);
        let [entry] = entries[..] else {
            panic!("one flow");
        };
        let traffic = traffic(entry);
        // The inner frames: Ethernet, IPv4, TCP with timestamps, payload.
        assert_eq!(traffic, (20, 20 * (14 + 20 + 32) + 20_000));
        // As an MSS: with the 12 bytes of options.
        assert_eq!(entry.slots[0].full_segment.load(Relaxed), 1012);
    }
}

fn traffic(entry: &FlowEntry) -> (u64, u64) {
    let traffic = crate::layout::Traffic::unpack(entry.hot[0].traffic.load(Relaxed));
    (traffic.packets, traffic.bytes)
}

#[test]
fn whole_tunnel_packets_that_were_merged_are_not_measured() {
    let one = wrap(&packet(Direction::FromLocal, 1, 0).bytes(), &[vxlan(7)]);
    // What UDP's own merging makes: one header, then the payloads of several.
    let payload = &one[14 + 20 + 8..];
    let mut merged = one.clone();
    merged.extend(payload);
    let total = u16::try_from(merged.len() - 14).unwrap();
    merged[16..18].copy_from_slice(&total.to_be_bytes());
    merged[38..40].copy_from_slice(&(total - 20).to_be_bytes());
    let model = model();
    let mut arrival = arrival(0, Direction::FromLocal);
    // Its flow is known, so that the fast path has to tell too.
    model.packet(&one, &arrival);
    let before = traffic(entries(&model)[0]);
    (arrival.segments, arrival.segment_size) = (2, u32::try_from(payload.len()).unwrap());
    model.packet(&merged, &arrival);
    assert_eq!(traffic(entries(&model)[0]), before);
    assert_eq!(model.counter(Counter::SkippedMerged), 2);
}

#[test]
fn a_bomb_of_networks_takes_no_entry_from_an_active_flow() {
    let model = model();
    talk(&model, 0, &[vxlan(1)]);
    for vni in 2..5_000 {
        let frame = wrap(&packet(Direction::FromLocal, 1, 0).bytes(), &[vxlan(vni)]);
        model.packet(
            &frame,
            &arrival(u64::from(vni) * 1000, Direction::FromLocal),
        );
    }
    let evicted = model.counter(Counter::EvictedHalfOpen);
    assert!(evicted + model.counter(Counter::FlowsFull) > 4_998 - 512);
    assert_eq!(model.counter(Counter::EvictedIdle), 0);
    let (first, second) = (
        packet(Direction::FromLocal, 4, 3),
        packet(Direction::ToLocal, 4, 4),
    );
    for (at, direction, frame) in [
        (0, Direction::FromLocal, first),
        (3, Direction::ToLocal, second),
    ] {
        let frame = wrap(&frame.bytes(), &around(direction, &[vxlan(1)]));
        model.packet(&frame, &arrival((50_000 + at * 1000) * 1000, direction));
    }
    assert_eq!(remote(&model).last(), Some(&(3_000_000 / 64)));
}

#[test]
fn no_aggregate_takes_an_inner_flow() {
    let model = {
        let mut model = model();
        let config = crate::layout::InterfaceConfig {
            vantage: Vantage::Nic as u8,
            ..Default::default()
        };
        model.interfaces.insert(2, config);
        model
    };
    talk(&model, 0, &[vxlan(1)]);
    let pairs = model.pairs.borrow();
    let vantages: Vec<u8> = pairs
        .keys()
        .map(|pair| crate::layout::PairKey(*pair).vantage())
        .collect();
    assert_eq!(
        vantages,
        [Vantage::Nic as u8 | crate::layout::PairKey::INSIDE]
    );
    assert_eq!(Vantage::from_raw(vantages[0]), None);
    let flags = flag::ACK;
    assert_eq!(packet(Direction::FromLocal, 1, 0).flags, flags);
}
