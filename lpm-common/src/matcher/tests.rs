//! The hand-made flows through the host model.

use std::{
    path::Path,
    string::{String, ToString},
    vec::Vec,
};

use crate::{
    counter::Counter,
    layout::{Echo, Method, Methods, UNIT_NS},
    model::{
        Model, Settings,
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

/// The samples, and the retransmissions.
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

/// What is missing or too much, as text.
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
        ("odd_seq", 22, Methods::DEFAULT),
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
