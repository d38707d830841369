//! A model of the kernel's part in ordinary memory. The host tests, the
//! differential tests and offline replay run packets through it.
//!
//! The model holds the same maps as the kernel object. Its
//! [`crate::env::Env::sample`] does what the kernel programs do.

mod tunnel;

use core::cell::{Cell, RefCell};
use std::{
    collections::{HashMap, HashSet},
    vec::Vec,
};

use crate::{
    atomic::AtomicU64,
    counter::{COUNTERS, Counter},
    env::{Claims, Env, RequestSample, RttSample},
    hash::{SEEDS, Seeds},
    histogram::{self, SUM_WORD, WORDS},
    layout::{
        BackendKey, Control, FlowEntry, InterfaceConfig, Methods, NameId, NameValue, PairKey,
        QueryEntry, RequestEntry, UNIT_NS, VlanPair,
    },
    matcher,
    packet::{Direction, Meta},
    parse::{Link, Packet, tunnel::TunnelPorts},
    pipeline::{
        self, FastPath, Interfaces, Lookup, PacketContext, ParsedFlowPacket,
        node::{self, PodAddresses},
    },
    query::{self, Queries, Query, QueryRecorder},
    rows::{self, Rows, Slots},
    table::Table,
    vlan::Pairs,
};

use core::sync::atomic::Ordering::Relaxed;

/// Sizes and constants that the agent sets in the kernel object.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Entries of the flow table; a power of two, at least 4.
    pub flow_entries: u32,
    /// Histogram rows, the overflow row included.
    pub rows: u32,
    /// Secrets of the hash.
    pub seeds: [u32; SEEDS],
    /// Jiffies per second.
    pub hz: u32,
    /// Entries of the query table; a power of two, at least 4.
    pub query_entries: u32,
    /// Seconds without a packet after which a flow is idle.
    pub idle_seconds: u32,
    /// The methods that are on.
    pub methods: Methods,
}

/// The maps, the clock and the packet at hand.
pub struct Model {
    /// Sizes and constants that the model was made with.
    pub settings: Settings,
    /// Map `FLOWS`.
    pub flows: Vec<FlowEntry>,
    /// Map `QUERIES`.
    pub queries: Vec<QueryEntry>,
    /// Map `REQUESTS`.
    pub requests: Vec<RequestEntry>,
    /// Map `HISTOGRAMS`, one stripe: `[row * 8 + place][word]`.
    pub histograms: RefCell<Vec<[u64; WORDS]>>,
    /// Map `ROWS`: retransmitted segments by direction.
    pub retransmitted: RefCell<Vec<[u64; 2]>>,
    /// Map `COUNTERS`.
    pub counters: [Cell<u64>; COUNTERS],
    /// Map `INTERFACES`.
    pub interfaces: HashMap<u32, InterfaceConfig>,
    /// Map `NAMES`, whole addresses only.
    pub names: HashMap<[u32; 4], NameValue>,
    /// Map `BACKENDS`: owners of the backends behind service addresses.
    pub backends: HashMap<BackendKey, NameId>,
    /// Ports of tunnels whose inner packets are measured. None: the programs
    /// that do not look into tunnels run.
    pub tunnels: TunnelPorts,
    /// Generation of the names.
    pub generation: u32,
    /// Map `PAIRS`.
    pub pairs: RefCell<HashMap<u64, u32>>,
    /// Map `CONTROL`: which rows are given out.
    pub control: Control,
    /// Map `ROWS`: label sets.
    pub labels: Vec<AtomicU64>,
    /// Map `HOMES`.
    pub homes: RefCell<HashMap<[u32; 4], u32>>,
    /// Map `VLAN_PAIRS`.
    pub vlan_pairs: RefCell<HashMap<u64, VlanPair>>,
    claims: RefCell<HashSet<u32>>,
    /// Whether another program looks at the packet at hand, too.
    quiet: Cell<bool>,
    /// The samples so far, in order.
    pub samples: RefCell<Vec<RttSample>>,
    /// The answers that were matched so far, in order.
    pub answers: RefCell<Vec<Answered>>,
    /// The requests answered so far, in order.
    pub requested: RefCell<Vec<RequestSample>>,
    now_ns: Cell<u64>,
    segment_size: Cell<u32>,
}

/// A query that was answered in time, and was sent once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The answer.
    pub query: Query,
    /// When the answer passed, nanoseconds.
    pub now_ns: u64,
    /// Time since the query passed, nanoseconds.
    pub rtt_ns: u64,
}

/// What the kernel tells of a packet beside its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Time, nanoseconds.
    pub now_ns: u64,
    /// What the interface's frames begin with.
    pub link: Link,
    /// Which way it goes.
    pub direction: Direction,
    /// Interface that the packet is at.
    pub ifindex: u32,
    /// VLAN id in the metadata; 0: none.
    pub vlan: u32,
    /// `gso_segs`, at least 1.
    pub segments: u32,
    /// `gso_size`; 0: not GSO.
    pub segment_size: u32,
}

impl Model {
    /// Makes a model with empty maps.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let flows = (0..settings.flow_entries)
            .map(|_| FlowEntry::default())
            .collect();
        let queries = (0..settings.query_entries)
            .map(|_| QueryEntry::default())
            .collect();
        let requests = (0..settings.flow_entries)
            .map(|_| RequestEntry::default())
            .collect();
        let histograms = (0..settings.rows * 8).map(|_| [0; WORDS]).collect();
        Self {
            settings,
            flows,
            queries,
            requests,
            histograms: RefCell::new(histograms),
            retransmitted: RefCell::new((0..settings.rows).map(|_| [0; 2]).collect()),
            counters: [const { Cell::new(0) }; COUNTERS],
            interfaces: HashMap::new(),
            names: HashMap::new(),
            backends: HashMap::new(),
            tunnels: TunnelPorts::default(),
            generation: 1,
            pairs: RefCell::default(),
            control: Control::default(),
            labels: (0..settings.rows).map(|_| AtomicU64::new(0)).collect(),
            homes: RefCell::default(),
            vlan_pairs: RefCell::default(),
            claims: RefCell::default(),
            quiet: Cell::new(false),
            samples: RefCell::default(),
            answers: RefCell::default(),
            requested: RefCell::default(),
            now_ns: Cell::new(0),
            segment_size: Cell::new(0),
        }
    }

    /// Runs a frame through the fast path and the slow path, as a hook does.
    /// The programs that look into tunnels run if there are tunnel ports.
    pub fn packet(&self, frame: &[u8], arrival: &Arrival) {
        let cx = self.begin(frame, arrival);
        if self.tunnels == TunnelPorts::default() {
            pipeline::measure(&frame, &cx);
        } else {
            self.packet_inside(frame, &cx);
        }
    }

    /// Runs a frame through the programs of the node vantage.
    pub fn joined_packet(&self, frame: &[u8], arrival: &Arrival) {
        let cx = self.begin(frame, arrival);
        let (cx, direction) = (cx.with(node::meta(&cx.meta)), cx.direction);
        let fast_path = |stash: &mut dyn FnMut(&ParsedFlowPacket)| match direction {
            Direction::FromLocal => pipeline::fast_path(&frame, &cx, stash),
            Direction::ToLocal => {
                self.quiet.set(true);
                node::fast_path_to_pod(&frame, &cx, stash)
            }
        };
        let fast_path = pipeline::after(&cx, fast_path);
        let network = if fast_path == FastPath::Uncommon {
            pipeline::network(&frame, &cx.meta, cx.link, self)
        } else {
            None
        };
        let question = |query: &mut Query| {
            self.quiet.set(false);
            if node::take_query(query, arrival.ifindex, direction, self) {
                pipeline::take_query(query, self, self);
            }
            self.quiet.set(direction == Direction::ToLocal);
        };
        if let Some(network) = network.filter(pipeline::is_datagram) {
            let first = pipeline::datagram(&frame, &network, &cx);
            pipeline::queries(&frame, first, &cx, question);
            self.quiet.set(false);
            return;
        }
        let packet =
            network.and_then(|network| pipeline::transport(&frame, &cx.meta, &network, self));
        self.quiet.set(false);
        let Some(packet) = packet else { return };
        let packet = Packet {
            segment: 0,
            ..packet
        };
        self.quiet.set(direction == Direction::ToLocal);
        let first = pipeline::message(&frame, &packet, &cx);
        pipeline::queries(&frame, first, &cx, question);
        self.quiet.set(false);
        let (fingerprint, found) = node::find(&packet, direction, self, self);
        if found == Lookup::Anew {
            node::insert_flow(&packet, fingerprint, arrival.ifindex, &cx);
        }
        pipeline::finish(pipeline::known_as(fingerprint, &packet, &cx.meta), &cx);
    }

    fn begin(&self, frame: &[u8], arrival: &Arrival) -> PacketContext<'_, Self, Self> {
        self.now_ns.set(arrival.now_ns);
        self.segment_size.set(arrival.segment_size);
        PacketContext {
            meta: Meta {
                len: u32::try_from(frame.len()).unwrap_or(u32::MAX),
                segments: arrival.segments,
                ifindex: arrival.ifindex,
                vlan: arrival.vlan,
            },
            link: arrival.link,
            direction: arrival.direction,
            host: self,
            env: self,
        }
    }

    /// The value of a counter.
    #[must_use]
    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters[counter as usize].get()
    }

    fn observe(&self, row: u32, place: u32, ns: u64) {
        let mut histograms = self.histograms.borrow_mut();
        let words = &mut histograms[(row * 8 + place) as usize];
        words[histogram::bucket(ns)] += 1;
        words[SUM_WORD] += ns;
    }
}

impl Env for Model {
    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    fn jiffies(&self) -> u32 {
        (self.now_ns.get() / (1_000_000_000 / u64::from(self.settings.hz))) as u32
    }

    fn hz(&self) -> u32 {
        self.settings.hz
    }

    fn methods(&self) -> Methods {
        self.settings.methods
    }

    fn add64(&self, to: &AtomicU64, n: u64) {
        to.fetch_add(n, Relaxed);
    }

    fn count(&self, counter: Counter, n: u64) {
        if self.quiet.get() && counter.is_of_skipped() {
            return;
        }
        let cell = &self.counters[counter as usize];
        cell.set(cell.get() + n);
    }

    fn sample(&self, entry: &FlowEntry, sample: &RttSample) {
        let slots = &entry.slots[usize::from(sample.leg)];
        matcher::update_statistics(slots, sample.units);
        slots.samples.fetch_add(1, Relaxed);
        let row = rows::of_flow(entry, self, self);
        let place = u32::from(sample.leg) * 4 + u32::from(sample.echo);
        self.observe(row, place, u64::from(sample.units) * UNIT_NS);
        if let Some(counter) = Counter::sampled(sample.method) {
            self.count(counter, 1);
        }
        self.samples.borrow_mut().push(*sample);
    }

    fn request(&self, entry: &FlowEntry, request: &RequestEntry, sample: &RequestSample) {
        let row = rows::of_request(entry, request, self, self);
        if row != rows::OVERFLOW {
            self.observe(row, u32::from(sample.leg) * 4, sample.rtt_ns);
        }
        self.count(Counter::SampledRequest, 1);
        self.requested.borrow_mut().push(*sample);
    }

    fn unanswered(&self, row: u32, place: u32, _: u64) {
        self.histograms.borrow_mut()[(row * 8 + place) as usize][0] += 1;
    }

    fn retransmitted(&self, entry: &FlowEntry, direction: u8, segments: u32) {
        let row = rows::of_flow(entry, self, self) as usize;
        self.retransmitted.borrow_mut()[row][usize::from(direction)] += u64::from(segments);
    }

    fn retire(&self, entry: &FlowEntry) {
        for (leg, slots) in (0..).zip(&entry.slots) {
            let min = slots.window_min.load(Relaxed);
            if min != u32::MAX {
                self.observe(rows::last(entry), leg * 4 + 3, u64::from(min) * UNIT_NS);
            }
        }
    }

    fn vacate(&self, from: &AtomicU64) {
        from.store(0, Relaxed);
        core::sync::atomic::fence(core::sync::atomic::Ordering::Release);
    }

    fn publish(&self, to: &AtomicU64, fingerprint: u64) {
        to.store(fingerprint, core::sync::atomic::Ordering::Release);
    }

    fn segment_size(&self) -> u32 {
        self.segment_size.get()
    }
}

impl Seeds for Model {
    fn seed(&self, i: usize) -> u32 {
        self.settings.seeds.seed(i)
    }
}

impl Table for Model {
    fn entry(&self, index: u32) -> Option<&FlowEntry> {
        self.flows.get(index as usize)
    }

    fn set_mask(&self) -> u32 {
        self.settings.flow_entries / crate::table::WAYS - 1
    }

    fn idle_jiffies(&self) -> u32 {
        self.settings.idle_seconds * self.settings.hz
    }

    fn request(&self, index: u32) -> Option<&RequestEntry> {
        self.requests.get(index as usize)
    }
}

impl Queries for Model {
    fn query(&self, index: u32) -> Option<&QueryEntry> {
        self.queries.get(index as usize)
    }

    fn query_mask(&self) -> u32 {
        self.settings.query_entries / crate::table::WAYS - 1
    }
}

impl QueryRecorder for Model {
    fn row(&self, query: &Query) -> u32 {
        query::note(query, &self.control);
        rows::of_query(query, self, self)
    }

    fn answered(&self, query: &Query, sample: &query::Sample) {
        if sample.row != rows::OVERFLOW {
            self.observe(sample.row, u32::from(query.head.place), sample.rtt_ns);
        }
        self.answers.borrow_mut().push(Answered {
            query: *query,
            now_ns: sample.now_ns,
            rtt_ns: sample.rtt_ns,
        });
    }
}

impl Claims for Model {
    fn claim(&self, name: u32) -> bool {
        self.claims.borrow_mut().insert(name)
    }

    fn release(&self, name: u32) {
        self.claims.borrow_mut().remove(&name);
    }
}

impl Pairs for Model {
    fn pair(&self, key: u64) -> VlanPair {
        let pairs = self.vlan_pairs.borrow();
        pairs.get(&key).copied().unwrap_or_default()
    }

    fn set_pair(&self, key: u64, pair: VlanPair) {
        self.vlan_pairs.borrow_mut().insert(key, pair);
    }

    fn is_tagged(&self) -> bool {
        self.control.tagged.load(Relaxed) != 0
    }

    fn tag_seen(&self) {
        self.control.tagged.store(1, Relaxed);
    }

    fn doubtful(&self, ifindex: u32) {
        self.control.doubtful.store(ifindex, Relaxed);
    }
}

impl Interfaces for Model {
    fn config(&self, ifindex: u32) -> Option<InterfaceConfig> {
        self.interfaces.get(&ifindex).copied()
    }
}

impl PodAddresses for Model {
    fn home(&self, address: [u32; 4]) -> Option<u32> {
        self.homes.borrow().get(&address).copied()
    }

    fn settle(&self, address: [u32; 4], ifindex: u32) {
        self.homes.borrow_mut().entry(address).or_insert(ifindex);
    }
}

impl Rows for Model {
    fn generation(&self) -> u32 {
        self.generation
    }

    fn name(&self, address: [u32; 4]) -> Option<NameValue> {
        self.names.get(&address).copied()
    }

    fn backend(&self, of: &BackendKey) -> Option<NameId> {
        self.backends.get(of).copied()
    }

    fn row(&self, pair: PairKey) -> Option<u32> {
        self.pairs.borrow().get(&pair.0).copied()
    }

    fn assign(&self, pair: PairKey) -> Option<u32> {
        rows::give(pair, self)
    }
}

impl Slots for Model {
    fn rows(&self) -> u32 {
        self.settings.rows
    }

    fn control(&self) -> Option<&Control> {
        Some(&self.control)
    }

    fn label(&self, row: u32) -> Option<&AtomicU64> {
        self.labels.get(row as usize)
    }

    fn bind(&self, pair: PairKey, row: u32) -> bool {
        self.pairs.borrow_mut().insert(pair.0, row);
        true
    }
}
