//! The programs and their maps, in step with a model on the host.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

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
    host::{Arrival, Model, Settings},
    layout::{
        ASKED, Control, FlowEntry, Histogram, InterfaceConfig, Methods, PairKey, QueryEntry,
        RequestEntry, Row, Vantage,
    },
    packet::Direction,
    parse::{Link, tunnel::TunnelPorts},
};

use super::LOOPBACK;
use crate::support::turn;

const FLOW_ENTRIES: u32 = 64;
/// Few, so that sets fill up.
const QUERY_ENTRIES: u32 = 8;
const ROWS: u32 = 8;

/// The kernel programs, and where a model with the same settings comes from.
pub(crate) struct Pair {
    pub(crate) kernel: Kernel,
    flows: MmapArray<FlowEntry>,
    queries: MmapArray<QueryEntry>,
    requests: MmapArray<RequestEntry>,
    histograms: MmapArray<Histogram>,
    control: MmapArray<Control>,
    rows: MmapArray<Row>,
    counters: PerCpuArray<aya::maps::MapData, [u64; COUNTERS]>,
    vlans: HashMap<aya::maps::MapData, u64, u64>,
    seeds: [u32; SEEDS],
    pub(crate) tunnels: TunnelPorts,
    methods: Methods,
    before: [u64; COUNTERS],
}

impl Pair {
    /// None, and said why, where programs cannot be loaded.
    pub(crate) fn new() -> Option<Self> {
        Self::with(TunnelPorts::default())
    }

    /// The programs that look into these tunnels, if there are any.
    pub(crate) fn with(tunnels: TunnelPorts) -> Option<Self> {
        Self::load(tunnels, Methods::DEFAULT)
    }

    /// The programs with these methods only.
    pub(crate) fn of_methods(methods: Methods) -> Option<Self> {
        Self::load(TunnelPorts::default(), methods)
    }

    fn load(tunnels: TunnelPorts, methods: Methods) -> Option<Self> {
        turn::take();
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
            requests: kernel.mapped("REQUESTS").unwrap(),
            histograms: kernel.histograms().unwrap(),
            control: kernel.control().unwrap(),
            rows: kernel.rows().unwrap(),
            counters: kernel.take("COUNTERS").unwrap(),
            vlans: kernel.take("VLAN_PAIRS").unwrap(),
            kernel,
            seeds: settings.seeds,
            tunnels,
            methods,
            before: [0; COUNTERS],
        })
    }

    /// Empty maps, and a model with empty maps and the same settings.
    pub(crate) fn reset(&mut self) -> Model {
        for entry in self.flows.iter() {
            clear(entry);
        }
        for entry in self.queries.iter() {
            for word in query_words(entry) {
                word.store(0, Relaxed);
            }
        }
        for entry in self.requests.iter() {
            for word in request_words(entry) {
                word.store(0, Relaxed);
            }
        }
        for histogram in self.histograms.iter() {
            for word in &histogram.words {
                word.store(0, Relaxed);
            }
        }
        let control = self.control.get(0).unwrap();
        control.generation.store(1, Relaxed);
        for word in asked(control).into_iter().chain(tagged(control)) {
            word.store(0, Relaxed);
        }
        for (key, _) in self.vlan_pairs() {
            self.vlans.remove(&key).unwrap();
        }
        self.before = self.counts();
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
        self.clear_rows(&model);
        model
    }

    /// Rows are given out in the order in which pairs appear: two that are free again, in both,
    /// and then the others.
    fn clear_rows(&mut self, model: &Model) {
        let labels: Vec<&AtomicU64> = self.rows.iter().map(|row| &row.pair).collect();
        let modelled: Vec<&AtomicU64> = model.labels.iter().collect();
        for (control, labels) in [
            (self.control.get(0).unwrap(), labels),
            (&model.control, modelled),
        ] {
            for label in &labels {
                label.store(0, Relaxed);
            }
            labels[1].store(PairKey::FREE | 3, Relaxed);
            labels[3].store(PairKey::FREE, Relaxed);
            control.free_row.store(1, Relaxed);
            control.next_row.store(4, Relaxed);
        }
        let map = self.kernel.ebpf_mut().map_mut("PAIRS").unwrap();
        let mut pairs = HashMap::<_, u64, u32>::try_from(map).unwrap();
        let known: Vec<_> = pairs.keys().map(Result::unwrap).collect();
        for pair in known {
            pairs.remove(&pair).unwrap();
        }
    }

    /// Map `VLAN_PAIRS`, by key.
    fn vlan_pairs(&self) -> Vec<(u64, u64)> {
        let mut all: Vec<_> = self.vlans.iter().map(Result::unwrap).collect();
        all.sort_unstable();
        all
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
    pub(crate) fn packet(&mut self, frame: &[u8], arrival: &Arrival) -> bool {
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
    pub(crate) fn joined_packet(&mut self, frame: &[u8], arrival: &Arrival) -> bool {
        let name = match (arrival.link, arrival.direction) {
            (Link::Ethernet, Direction::FromLocal) => "lpm_node_from",
            (Link::Ethernet, Direction::ToLocal) => "lpm_node_to",
            (Link::Ip, Direction::ToLocal) => "lpm_node_to_l3",
            (Link::Ip, Direction::FromLocal) => return false,
        };
        self.run(name, frame, arrival)
    }

    /// No interface is joined, and no address is settled.
    pub(crate) fn reset_joined(&mut self) -> Model {
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
    pub(crate) fn assert_same(&self, model: &Model, what: &str) {
        for (i, (kernel, host)) in self.flows.iter().zip(&model.flows).enumerate() {
            assert_eq!(snapshot(kernel), snapshot(host), "{what}: flow entry {i}");
        }
        for (i, (kernel, host)) in self.queries.iter().zip(&model.queries).enumerate() {
            let [kernel, host] =
                [kernel, host].map(|entry| query_words(entry).each_ref().map(|w| w.load(Relaxed)));
            assert_eq!(kernel, host, "{what}: question {i}");
        }
        // The kernel has one element if the method is off.
        for (i, (kernel, host)) in self.requests.iter().zip(&model.requests).enumerate() {
            let [kernel, host] = [kernel, host]
                .map(|entry| request_words(entry).each_ref().map(|w| w.load(Relaxed)));
            assert_eq!(kernel, host, "{what}: request {i}");
        }
        let controls = [self.control.get(0).unwrap(), &model.control];
        let [kernel, host] = controls.map(|control| asked(control).map(|word| word.load(Relaxed)));
        assert_eq!(kernel, host, "{what}: whom questions were about");
        let [kernel, host] = controls.map(|control| tagged(control).map(|word| word.load(Relaxed)));
        assert_eq!(kernel, host, "{what}: whether there were tags, and doubts");
        let host = model.vlan_pairs.borrow();
        let mut host: Vec<_> = host.iter().map(|(key, pair)| (*key, pair.0)).collect();
        host.sort_unstable();
        assert_eq!(self.vlan_pairs(), host, "{what}: pairs of VLANs");
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

fn asked(control: &Control) -> [&AtomicU32; 4 * ASKED] {
    std::array::from_fn(|word| &control.asked[word / 4][word % 4])
}

fn tagged(control: &Control) -> [&AtomicU32; 2] {
    [&control.tagged, &control.doubtful]
}

fn query_words(entry: &QueryEntry) -> &[AtomicU64; 4] {
    // SAFETY: 32 bytes of atomics, aligned to 32.
    unsafe { &*std::ptr::from_ref(entry).cast() }
}

fn request_words(entry: &RequestEntry) -> &[AtomicU64; 4] {
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
