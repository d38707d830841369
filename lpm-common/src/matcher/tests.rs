//! The hand-made flows through the host model.

use std::{
    path::Path,
    string::{String, ToString},
    vec::Vec,
};

use crate::{
    counter::Counter,
    host::{Arrival, Model, Settings},
    layout::{Echo, Method, Methods, UNIT_NS},
    packet::Direction,
    parse::Link,
    testing::{
        frame::Frame,
        vectors::{self, Case, Expected},
    },
};

fn model() -> Model {
    model_of(Methods::DEFAULT)
}

fn model_of(methods: Methods) -> Model {
    Model::new(Settings {
        flow_entries: 64,
        rows: 8,
        seeds: core::array::from_fn(|i| 0x9e37_79b9_u32.wrapping_mul(i as u32 + 1)),
        hz: 250,
        query_entries: 16,
        idle_seconds: 60,
        methods,
    })
}

/// Runs a case. Returns the samples and the number of retransmissions.
fn run(case: &Case, v6: bool, otherwise: Methods) -> (Vec<Expected>, u64) {
    let model = model_of(case.methods().unwrap_or(otherwise));
    let mut samples = Vec::new();
    for (at, packet) in case.packets.iter().enumerate() {
        model.packet(&packet.frame(v6).bytes(), &packet.arrival(7));
        samples.extend(model.samples.take().into_iter().map(|sample| {
            Expected {
                at,
                rtt_ns: u64::from(sample.units) * UNIT_NS,
                leg: if sample.leg == 0 { "remote" } else { "local" }.to_string(),
                echo: Echo::ALL[usize::from(sample.echo)].as_str().to_string(),
                id: sample.id,
                method: Method::from_raw(sample.method)
                    .unwrap()
                    .as_str()
                    .to_string(),
                may_skip: false,
            }
        }));
    }
    let retransmitted = model.retransmitted.borrow();
    (samples, retransmitted.iter().flatten().sum())
}

/// The samples that are missing or too many, as text.
fn differences(case: &Case, (got, again): &(Vec<Expected>, u64)) -> Vec<String> {
    let mut differences = Vec::new();
    let same = |a: &Expected, b: &Expected| {
        (a.at, a.rtt_ns, &a.leg, &a.echo, a.id, &a.method)
            == (b.at, b.rtt_ns, &b.leg, &b.echo, b.id, &b.method)
    };
    if case.retransmissions.is_some_and(|wanted| wanted != *again) {
        let wanted = case.retransmissions;
        differences.push(std::format!(
            "{}: {again} retransmissions, not {wanted:?}",
            case.name
        ));
    }
    for sample in got {
        if !case.samples.iter().any(|wanted| same(wanted, sample)) {
            differences.push(std::format!("{}: false {sample:?}", case.name));
        }
    }
    for wanted in &case.samples {
        if !wanted.may_skip && !got.iter().any(|sample| same(wanted, sample)) {
            differences.push(std::format!("{}: missing {wanted:?}", case.name));
        }
    }
    differences
}

#[test]
fn vectors_hold() {
    let only_ts = [Method::Ts].into_iter().collect();
    let files = [
        ("ts", 70, only_ts),
        ("seq", 15, Methods::DEFAULT),
        ("odd_ts", 18, only_ts),
        ("odd_seq", 23, Methods::DEFAULT),
    ];
    for (file, least, methods) in files {
        let path = std::format!(
            "{}/../tests/vectors/{file}.json",
            env!("CARGO_MANIFEST_DIR")
        );
        let cases = vectors::read(Path::new(&path));
        assert!(cases.len() >= least, "only {} of {file}", cases.len());
        let mut wrong = Vec::new();
        for case in &cases {
            for v6 in [false, true] {
                wrong.extend(differences(case, &run(case, v6, methods)));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

#[test]
fn a_flow_that_forgets_to_close_gives_up_its_entry_only_when_idle() {
    let model = model();
    let cases =
        vectors::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/ts.json"));
    let case = cases
        .iter()
        .find(|case| case.name.starts_with("request and response"))
        .unwrap();
    // More flows than entries, all established, all now: those beyond are
    // counted as losses and evict nobody.
    for flow in 0..200 {
        for packet in &case.packets {
            let mut arrival = packet.arrival(flow);
            arrival.now_ns = 1_000_000_000;
            model.packet(&packet.frame(false).bytes(), &arrival);
        }
    }
    assert!(model.counter(Counter::FlowsFull) > 0);
    assert_eq!(model.counter(Counter::EvictedIdle), 0);
    // Nor does a CPU whose clock was read a tick before the others noted theirs.
    let mut early = case.packets[0].arrival(1001);
    early.now_ns = 996_000_000;
    model.packet(&case.packets[0].frame(false).bytes(), &early);
    assert_eq!(model.counter(Counter::EvictedIdle), 0);
    // Two minutes later they may.
    for packet in &case.packets {
        let mut arrival = packet.arrival(1000);
        arrival.now_ns = 121_000_000_000;
        model.packet(&packet.frame(false).bytes(), &arrival);
    }
    assert_eq!(model.counter(Counter::EvictedIdle), 1);
}

/// A CPU reads the clock, another one the next tick of it, and notes that first.
#[test]
fn a_clock_that_is_a_tick_behind_is_no_silence() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/ts.json");
    let cases = vectors::read(&path);
    let case = cases
        .iter()
        .find(|case| case.name.starts_with("request and response"))
        .unwrap();
    for late in 0..case.packets.len() {
        let model = model();
        for (at, packet) in case.packets.iter().enumerate() {
            let mut arrival = packet.arrival(7);
            arrival.now_ns = if at == late {
                996_000_000
            } else {
                1_000_000_000
            };
            model.packet(&packet.frame(false).bytes(), &arrival);
        }
        assert_eq!(model.counter(Counter::StampExpired), 0, "{late}");
    }
}

/// Found by the fuzzer `flows`: the copy of an old acknowledgment, the first packet after a silence,
/// made the flow look busy, and the echo behind it was timed modulo 275 s.
#[test]
fn a_packet_that_tells_nothing_does_not_end_a_silence() {
    let (local, remote) = vectors::ends(false);
    let packet = |from_local: bool, payload, seq, timestamp| {
        let mut frame = if from_local {
            Frame::new(local, remote, 41140, 5301)
        } else {
            Frame::new(remote, local, 5301, 41140)
        };
        (frame.payload, frame.seq, frame.timestamp) = (payload, seq, Some(timestamp));
        let direction = if from_local {
            Direction::FromLocal
        } else {
            Direction::ToLocal
        };
        (frame.bytes(), direction)
    };
    let model = model();
    for (seconds, (bytes, direction)) in [
        (1, packet(true, 10, 100, (1, 5))),
        (2, packet(false, 0, 900, (5, 1))),
        (3, packet(true, 10, 110, (2, 5))),
        (303, packet(false, 0, 900, (5, 1))),
        (304, packet(false, 0, 900, (6, 2))),
    ] {
        let arrival = Arrival {
            now_ns: seconds * 1_000_000_000,
            link: Link::Ethernet,
            direction,
            ifindex: 7,
            vlan: 0,
            segments: 1,
            segment_size: 0,
        };
        model.packet(&bytes, &arrival);
    }
    assert_eq!(*model.samples.borrow(), []);
    assert_eq!(model.counter(Counter::StampExpired), 1);
}

#[test]
fn an_echo_of_what_was_never_sent_is_counted() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/ts.json");
    let cases = vectors::read(&path);
    let case = cases
        .iter()
        .find(|case| case.name.starts_with("an echo newer"))
        .unwrap();
    let model = model();
    for packet in &case.packets {
        model.packet(&packet.frame(false).bytes(), &packet.arrival(7));
    }
    assert_eq!(model.counter(Counter::ForeignEcho), 1);
}

#[test]
fn a_path_that_begins_to_strip_timestamps_is_measured_by_sequence_number() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/odd_seq.json");
    let mut case = vectors::read(&path)
        .into_iter()
        .find(|case| case.name == "keep-alives without timestamps on a flow that has them")
        .unwrap();
    case.packets.truncate(3);
    let [ack, synack] = [2, 1].map(|at| case.packets[at].clone());
    for i in 0..20_u32 {
        let (mut data, mut answer) = (ack.clone(), synack.clone());
        data.t_ns += u64::from(i + 1) * 64_000_000;
        answer.t_ns = data.t_ns + 6_400_000;
        (data.seq, data.payload) = (1000 + 100 * i, 100);
        (answer.seq, answer.ack) = (5000, 1100 + 100 * i);
        answer.flags = "A".to_string();
        answer.mss = None;
        for packet in [&mut data, &mut answer] {
            (packet.tsval, packet.tsecr) = (None, None);
        }
        case.packets.extend([data, answer]);
    }
    let (samples, _) = run(&case, false, Methods::DEFAULT);
    let by_seq: Vec<_> = samples.iter().filter(|s| s.method == "seq").collect();
    // The eighth packet without them is stamped already.
    assert_eq!(by_seq.len(), 13, "{samples:?}");
    assert!(by_seq.iter().all(|sample| sample.rtt_ns == 6_400_000));
}

/// A case of a file.
fn case(file: &str, name: &str) -> Case {
    let path = std::format!(
        "{}/../tests/vectors/{file}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let mut cases = vectors::read(Path::new(&path)).into_iter();
    cases.find(|case| case.name == name).unwrap()
}

/// The counters after the case's packets.
fn counts<const N: usize>(case: &Case, counters: [Counter; N]) -> [u64; N] {
    let model = model_of(case.methods().unwrap_or(Methods::DEFAULT));
    for packet in &case.packets {
        model.packet(&packet.frame(false).bytes(), &packet.arrival(7));
    }
    counters.map(|counter| model.counter(counter))
}

/// "An echo ahead of what has passed voids what it covers, in every method; beyond the window it is
/// ignored and counted."
#[test]
fn what_an_answer_ahead_covers_is_void_and_one_far_ahead_is_foreign() {
    let both = [Counter::StampVoided, Counter::ForeignEcho];
    let two = case(
        "odd_ts",
        "an echo of two, the second of which is still to pass",
    );
    assert_eq!(counts(&two, both), [1, 0]);
    for with in ["", ", with timestamps"] {
        let name = std::format!("the first ACK of all is just before its data{with}");
        assert_eq!(
            counts(&case("odd_seq", &name), both),
            [1, 0],
            "the SYN-ACK's{with}"
        );
    }
    // Four of the longest packets (RFC 791) are believed, five are not.
    for (packets, wanted) in [(4, [2, 0]), (5, [0, 1])] {
        let mut ahead = case("odd_seq", "an ACK just before the last of its data");
        ahead.packets.truncate(6);
        ahead.packets[5].ack = 1200 + packets * 65_535;
        assert_eq!(counts(&ahead, both), wanted, "{packets}");
    }
    // 200 s of a microsecond clock, before everything begins anew; and half its range.
    for (ticks, wanted) in [(200_000_000, [1, 0]), (1 << 30, [0, 1])] {
        let mut ahead = two.clone();
        ahead.packets.truncate(5);
        ahead.packets[4].tsecr = Some(130 + ticks);
        assert_eq!(counts(&ahead, both), wanted, "{ticks}");
    }
}

/// An acknowledgment without data stands at what was not sent yet (RFC 9293 section 3.4).
#[test]
fn mid_stream_an_acknowledgment_tells_the_next_sequence_number() {
    let mut case = case("odd_seq", "an ACK just before the last of its data");
    case.packets = [2, 3, 5].map(|at| case.packets[at].clone()).to_vec();
    case.packets[2].ack = 1100;
    let (samples, _) = run(&case, false, Methods::DEFAULT);
    let [sample] = &samples[..] else {
        panic!("{samples:?}")
    };
    assert_eq!((sample.at, sample.rtt_ns, sample.id), (2, 20_000_000, 1100));
}

/// Data of the local end, each answered without timestamps after 6.4 ms; those have them of whose
/// number `fast_ts` says so.
fn mixed(start: &Case, timed: impl Fn(u32) -> bool) -> Vec<Expected> {
    let mut case = start.clone();
    case.packets.truncate(3);
    let [ack, synack] = [2, 1].map(|at| case.packets[at].clone());
    for i in 0..30_u32 {
        let (mut data, mut answer) = (ack.clone(), synack.clone());
        data.t_ns += u64::from(i + 1) * 64_000_000;
        answer.t_ns = data.t_ns + 6_400_000;
        (data.seq, data.payload) = (1000 + 100 * i, 100);
        (answer.seq, answer.ack) = (5000, 1100 + 100 * i);
        answer.flags = "A".to_string();
        answer.mss = None;
        data.tsval = timed(i).then_some(200 + 64 * i);
        data.tsecr = data.tsval.map(|_| 900);
        (answer.tsval, answer.tsecr) = (None, None);
        case.packets.extend([data, answer]);
    }
    let (samples, _) = run(&case, false, Methods::DEFAULT);
    let rest = samples
        .into_iter()
        .filter(|sample| sample.method != "handshake");
    rest.collect()
}

/// One odd packet changes nothing, however often it comes: only a row of them does.
#[test]
fn odd_packets_among_others_are_no_row() {
    let without = case("odd_seq", "an ACK just before the last of its data");
    let samples = mixed(&without, |i| i % 3 != 2);
    assert_eq!(samples.len(), 30, "{samples:?}");
    assert!(samples.iter().all(|sample| sample.method == "seq"));
    // A path that stops to take them off: three packets, none without between them.
    let samples = mixed(&without, |i| i >= 10);
    assert_eq!(samples.len(), 12, "{samples:?}");
    // Seven without, one with, and again.
    let with = case(
        "odd_seq",
        "keep-alives without timestamps on a flow that has them",
    );
    let samples = mixed(&with, |i| i % 8 == 7);
    assert_eq!(samples, [], "the answers echo nothing");
}

/// Reordering is not a port that is used again: that takes two seconds of nothing but old TSvals.
#[test]
fn old_tsvals_are_a_new_start_after_two_seconds_of_nothing_else() {
    let start = case("odd_ts", "an echo just before its data");
    let resynced = |packets: &[(u64, u32)]| {
        let mut case = start.clone();
        case.packets.truncate(3);
        for (i, (ms, tsval)) in packets.iter().enumerate() {
            let mut data = case.packets[2].clone();
            data.t_ns = 2_000_000_000 + ms * 1_000_000;
            data.seq = 1000 + 100 * i as u32;
            (data.payload, data.tsval) = (100, Some(*tsval));
            case.packets.push(data);
        }
        let [resynced] = counts(&case, [Counter::FlowResynced]);
        resynced
    };
    let first = (0, 5_000);
    assert_eq!(resynced(&[first, (10, 4_000), (11, 4_001), (12, 4_002)]), 0);
    assert_eq!(resynced(&[first, (10, 4_000), (1_900, 4_001)]), 0);
    assert_eq!(resynced(&[first, (10, 4_000), (2_100, 4_001)]), 1);
    assert_eq!(
        resynced(&[
            first,
            (10, 4_000),
            (1_000, 5_500),
            (2_100, 4_001),
            (2_200, 4_002)
        ]),
        0,
        "a new one came between"
    );
}
