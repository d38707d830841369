//! The kernel programs against the host model: the same packets through
//! `BPF_PROG_TEST_RUN` and through `lpm_common::model` must leave the same
//! flow table, histograms and counters, word for word.

mod inside;
mod sequence;
mod xdp;

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use aya::{
    TestRun,
    maps::{HashMap, PerCpuArray},
    programs::{SchedClassifier, TestRunOptions},
};
use lpm_agent::kernel::{
    load::{Kernel, LoadSettings, jiffies_per_second},
    mmap::MmapArray,
};
use lpm_common::{
    counter::{COUNTERS, Counter},
    hash::SEEDS,
    histogram::WORDS,
    layout::{Control, FlowEntry, Histogram, InterfaceConfig, Methods, QueryEntry, Vantage},
    model::{
        Arrival, Model, Settings,
        frame::{Frame, layouts},
        question::{Message, echo},
        vectors,
    },
    packet::Direction,
    parse::{Link, tunnel::TunnelPorts},
};
use proptest::prelude::*;

/// Interface 1 is the loopback of every network namespace: test runs want one
/// that exists.
const LOOPBACK: u32 = 1;
const FLOW_ENTRIES: u32 = 64;
/// Few, so that sets fill up.
const QUERY_ENTRIES: u32 = 8;
const ROWS: u32 = 8;
/// Longest frame that every kernel takes for a test run: it has to fit in a
/// page with its headroom.
const LONGEST: usize = 3_000;

struct Pair {
    kernel: Kernel,
    flows: MmapArray<FlowEntry>,
    queries: MmapArray<QueryEntry>,
    histograms: MmapArray<Histogram>,
    control: MmapArray<Control>,
    counters: PerCpuArray<aya::maps::MapData, [u64; COUNTERS]>,
    seeds: [u32; SEEDS],
    tunnels: TunnelPorts,
    methods: Methods,
    before: [u64; COUNTERS],
}

impl Pair {
    /// None, and said why, where programs cannot be loaded.
    fn new() -> Option<Self> {
        Self::with(TunnelPorts::default())
    }

    /// The programs that look into these tunnels, if there are any.
    fn with(tunnels: TunnelPorts) -> Option<Self> {
        Self::load(tunnels, Methods::ALL)
    }

    /// The programs with these methods only.
    fn of_methods(methods: Methods) -> Option<Self> {
        Self::load(TunnelPorts::default(), methods)
    }

    fn load(tunnels: TunnelPorts, methods: Methods) -> Option<Self> {
        let mut settings = LoadSettings::new();
        settings.methods = methods;
        settings.flow_entries = FLOW_ENTRIES;
        settings.query_entries = QUERY_ENTRIES;
        settings.rows = ROWS;
        settings.stripes = 1;
        settings.packet_clock = true;
        settings.tunnels = tunnels;
        settings.xdp = true;
        let mut kernel = match Kernel::load(&settings) {
            Ok(kernel) => kernel,
            Err(error) if !nix::unistd::geteuid().is_root() => {
                println!("LPM-SKIP differential: {error}");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        Some(Self {
            flows: kernel.flows().unwrap(),
            queries: kernel.queries().unwrap(),
            histograms: kernel.histograms().unwrap(),
            control: kernel.control().unwrap(),
            counters: kernel.take("COUNTERS").unwrap(),
            kernel,
            seeds: settings.seeds,
            tunnels,
            methods,
            before: [0; COUNTERS],
        })
    }

    /// Empty maps, and a model with empty maps and the same settings.
    fn reset(&mut self) -> Model {
        for entry in self.flows.iter() {
            clear(entry);
        }
        for entry in self.queries.iter() {
            for word in query_words(entry) {
                word.store(0, Relaxed);
            }
        }
        for histogram in self.histograms.iter() {
            for word in &histogram.words {
                word.store(0, Relaxed);
            }
        }
        self.control.get(0).unwrap().generation.store(1, Relaxed);
        self.before = self.counts();
        self.clear_rows();
        let mut model = Model::new(Settings {
            flow_entries: FLOW_ENTRIES,
            query_entries: QUERY_ENTRIES,
            rows: ROWS,
            seeds: self.seeds,
            hz: jiffies_per_second(),
            idle_seconds: LoadSettings::new().idle_seconds,
            methods: self.methods,
        });
        model.tunnels = self.tunnels;
        for entry in &model.flows {
            clear(entry);
        }
        model
    }

    /// Rows are given out in the order in which pairs appear.
    fn clear_rows(&mut self) {
        self.control.get(0).unwrap().next_row.store(0, Relaxed);
        let map = self.kernel.ebpf_mut().map_mut("PAIRS").unwrap();
        let mut pairs = HashMap::<_, u64, u32>::try_from(map).unwrap();
        let known: Vec<_> = pairs.keys().map(Result::unwrap).collect();
        for pair in known {
            pairs.remove(&pair).unwrap();
        }
    }

    fn counts(&self) -> [u64; COUNTERS] {
        let mut sums = [0; COUNTERS];
        for cpu in self.counters.get(&0, 0).unwrap().iter() {
            for (sum, count) in sums.iter_mut().zip(cpu) {
                *sum += count;
            }
        }
        sums
    }

    /// False: this kernel's test run does not take such a frame.
    fn packet(&mut self, frame: &[u8], arrival: &Arrival) -> bool {
        let inside = self.tunnels != TunnelPorts::default();
        let name = match (arrival.link, arrival.direction) {
            (Link::Ethernet, Direction::FromLocal) if inside => "lpm_from_local_inner",
            (Link::Ethernet, Direction::ToLocal) if inside => "lpm_to_local_inner",
            (Link::Ethernet, Direction::FromLocal) => "lpm_from_local",
            (Link::Ethernet, Direction::ToLocal) => "lpm_to_local",
            (Link::Ip, Direction::FromLocal) => "lpm_from_local_l3",
            (Link::Ip, Direction::ToLocal) => "lpm_to_local_l3",
        };
        self.run(name, frame, arrival)
    }

    /// Likewise at the joined hooks; there is none for such a link and way.
    fn joined_packet(&mut self, frame: &[u8], arrival: &Arrival) -> bool {
        let name = match (arrival.link, arrival.direction) {
            (Link::Ethernet, Direction::FromLocal) => "lpm_node_from",
            (Link::Ethernet, Direction::ToLocal) => "lpm_node_to",
            (Link::Ip, Direction::ToLocal) => "lpm_node_to_l3",
            (Link::Ip, Direction::FromLocal) => return false,
        };
        self.run(name, frame, arrival)
    }

    /// No interface is joined, and no address is settled.
    fn reset_joined(&mut self) -> Model {
        let mut model = self.reset();
        let settings = InterfaceConfig {
            vantage: Vantage::Node as u8,
            ..InterfaceConfig::default()
        };
        model.interfaces.insert(LOOPBACK, settings);
        let ebpf = self.kernel.ebpf_mut();
        let map = ebpf.map_mut("INTERFACES").unwrap();
        let mut interfaces = HashMap::<_, u32, [u8; 8]>::try_from(map).unwrap();
        let bytes = [settings.vantage, 0, 0, 0, 0, 0, 0, 0];
        interfaces.insert(LOOPBACK, bytes, 0).unwrap();
        let map = ebpf.map_mut("HOMES").unwrap();
        let mut homes = HashMap::<_, [u32; 4], u32>::try_from(map).unwrap();
        let settled: Vec<_> = homes.keys().map(Result::unwrap).collect();
        for address in settled {
            homes.remove(&address).unwrap();
        }
        model
    }

    fn run(&mut self, name: &str, frame: &[u8], arrival: &Arrival) -> bool {
        let context = context(arrival);
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.ctx_in = Some(&context);
        let program = self.kernel.ebpf_mut().program_mut(name).unwrap();
        let program: &mut SchedClassifier = program.try_into().unwrap();
        match program.test_run(options) {
            // TC_ACT_UNSPEC, whatever the packet.
            Ok(result) => assert_eq!(result.return_value.cast_signed(), -1, "{name}"),
            // Newer kernels refuse what ends within the IP header.
            Err(_) if frame.len() < 14 + 40 => return false,
            Err(error) => panic!("{name}, {} bytes: {error}", frame.len()),
        }
        true
    }

    /// Both maps, word for word.
    fn assert_same(&self, model: &Model, what: &str) {
        for (i, (kernel, host)) in self.flows.iter().zip(&model.flows).enumerate() {
            assert_eq!(snapshot(kernel), snapshot(host), "{what}: flow entry {i}");
        }
        for (i, (kernel, host)) in self.queries.iter().zip(&model.queries).enumerate() {
            let [kernel, host] =
                [kernel, host].map(|entry| query_words(entry).each_ref().map(|w| w.load(Relaxed)));
            assert_eq!(kernel, host, "{what}: question {i}");
        }
        let host = model.histograms.borrow();
        for (i, (kernel, host)) in self.histograms.iter().zip(host.iter()).enumerate() {
            let kernel: [u64; WORDS] = std::array::from_fn(|word| kernel.words[word].load(Relaxed));
            assert_eq!(kernel, *host, "{what}: histogram {i}");
        }
        let counts = self.counts();
        for counter in Counter::ALL {
            let place = *counter as usize;
            let kernel = counts[place] - self.before[place];
            assert_eq!(kernel, model.counter(*counter), "{what}: {counter:?}");
        }
    }
}

/// An entry as words.
fn words(entry: &FlowEntry) -> &[AtomicU64; 32] {
    // SAFETY: 256 bytes of atomics, aligned to 64.
    unsafe { &*std::ptr::from_ref(entry).cast() }
}

fn query_words(entry: &QueryEntry) -> &[AtomicU64; 4] {
    // SAFETY: 32 bytes of atomics, aligned to 32.
    unsafe { &*std::ptr::from_ref(entry).cast() }
}

fn clear(entry: &FlowEntry) {
    for word in words(entry) {
        word.store(0, Relaxed);
    }
}

fn snapshot(entry: &FlowEntry) -> [u64; 32] {
    std::array::from_fn(|i| words(entry)[i].load(Relaxed))
}

/// `struct __sk_buff` with the fields that a test run may set.
fn context(arrival: &Arrival) -> [u8; 192] {
    const IFINDEX: usize = 40;
    const TSTAMP: usize = 152;
    const GSO_SEGS: usize = 164;
    const GSO_SIZE: usize = 176;
    let mut bytes = [0; 192];
    let mut put = |at: usize, word: &[u8]| bytes[at..at + word.len()].copy_from_slice(word);
    put(IFINDEX, &arrival.ifindex.to_ne_bytes());
    put(TSTAMP, &arrival.now_ns.to_ne_bytes());
    put(GSO_SEGS, &arrival.segments.to_ne_bytes());
    put(GSO_SIZE, &arrival.segment_size.to_ne_bytes());
    bytes
}

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
            let methods = case.methods().unwrap_or(Methods::ALL);
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

/// A packet of one of a few flows, with values near each other so that
/// packets have to do with each other.
fn any_packet() -> impl Strategy<Value = (Frame, u64, u32)> {
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

/// A question or an answer in any layout: as it should be, with noise in its
/// header, or cut.
fn any_question() -> impl Strategy<Value = (Frame, Direction, usize, u64)> {
    let what = (0_u8..4, 0_u16..3, 0_u16..8, any::<bool>(), any::<bool>());
    let noise = prop_oneof![
        8 => Just(None),
        1 => any::<(prop::sample::Index, u8)>().prop_map(Some),
    ];
    let cut = prop_oneof![8 => Just(usize::MAX), 1 => 55_usize..140];
    let gap = prop_oneof![9 => 0_u64..3_000_000, 1 => 0_u64..12_000_000_000];
    (what, noise, 0_usize..30, cut, gap).prop_map(
        |((kind, id, rcode, v6, from_local), noise, shape, cut, gap)| {
            let (local, remote) = vectors::ends(v6);
            let answers = rcode % 2 == 1;
            // The local end asks servers; now and then it is the other way.
            let from_local = if kind > 0 && rcode < 6 {
                !answers
            } else {
                from_local
            };
            let (src, dst) = if from_local {
                (local, remote)
            } else {
                (remote, local)
            };
            let (sport, dport) = if from_local { (4000, 53) } else { (53, 4000) };
            let message = if answers {
                Message::answer(id, rcode)
            } else {
                Message::query(id)
            };
            let mut frame = match kind {
                0 => echo(src, dst, answers, 1, id),
                1 => Message::tcp(&[message.clone(), message], src, dst, sport, dport),
                _ => message.udp(src, dst, sport, dport),
            };
            if let Some((at, byte)) = noise {
                let bytes = frame
                    .other
                    .as_mut()
                    .map_or(&mut frame.data, |other| &mut other.1);
                let at = at.index(bytes.len().min(20));
                bytes[at] = byte;
            }
            if let Some((_, layout)) = layouts(local, remote, 1, 2).into_iter().nth(shape) {
                frame.ethernet = layout.ethernet;
                frame.tags = layout.tags;
                frame.ip_options = layout.ip_options;
                frame.extensions = layout.extensions;
            }
            let direction = if from_local {
                Direction::FromLocal
            } else {
                Direction::ToLocal
            };
            (frame, direction, cut, gap)
        },
    )
}

#[test]
fn any_questions_and_answers_leave_the_same_state() {
    any_questions(false);
}

#[test]
fn any_questions_and_answers_at_joined_hooks_leave_the_same_state() {
    any_questions(true);
}

fn any_questions(joined: bool) {
    let Some(mut pair) = Pair::new() else { return };
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let (mut samples, mut unanswered) = (0, 0);
    let seen = std::cell::RefCell::new((&mut samples, &mut unanswered));
    let pair = std::cell::RefCell::new(&mut pair);
    runner
        .run(&prop::collection::vec(any_question(), 1..60), |packets| {
            let mut pair = pair.borrow_mut();
            let model = if joined {
                pair.reset_joined()
            } else {
                pair.reset()
            };
            let mut now = 0;
            for (frame, direction, cut, gap) in packets {
                now += gap;
                let mut arrival = arrival(&frame, now);
                arrival.direction = direction;
                let bytes = frame.bytes();
                let bytes = &bytes[..bytes.len().min(cut)];
                if joined {
                    if pair.joined_packet(bytes, &arrival) {
                        model.joined_packet(bytes, &arrival);
                    }
                } else if pair.packet(bytes, &arrival) {
                    model.packet(bytes, &arrival);
                }
            }
            pair.assert_same(&model, "random questions");
            let mut seen = seen.borrow_mut();
            *seen.0 += model.answers.borrow().len();
            let histograms = model.histograms.borrow();
            *seen.1 += histograms.iter().skip(8).map(|place| place[0]).sum::<u64>();
            Ok(())
        })
        .unwrap();
    println!("{samples} answers, {unanswered} unanswered");
    assert!(
        samples > 100 && unanswered > 10,
        "the packets have to do with each other"
    );
}
