//! The engine: does the kernel's part for the packets of a file. It runs the same pipeline and
//! matcher, on memory of its own.
//!
//! Memory is allocated once. A packet allocates nothing.

mod merged;
mod options;
mod queries;
mod vlans;

use std::{
    cell::{Cell, RefCell},
    sync::atomic::Ordering::Relaxed,
};

use lpm_common::{
    atomic::AtomicU64,
    counter::{COUNTERS, Counter},
    env::{Claims, Env, RequestSample, RttSample},
    hash::{SEEDS, Seeds},
    layout::{
        Echo, FlowEntry, InterfaceConfig, Leg, Method, Methods, QueryEntry, RequestEntry, Sample,
        UNIT_NS,
    },
    matcher::{self},
    packet::{Direction, Meta},
    parse::{self, Link, tunnel::TunnelPorts},
    pipeline::{
        self, Interfaces, PacketContext,
        tunnel::{self, Step, Unwrapped},
    },
    table::{self, Table},
};

pub use self::queries::Unanswered;
use super::{bytes::Captured, digest::KEPT, link::View, local_end::LocalEnd};
use crate::{kernel::load::LoadSettings, passive::Flow};

/// Jiffies per second. They only measure how long a flow was silent. At this rate they wrap after
/// more than a year.
const HZ: u32 = 100;
const NANOS_PER_JIFFY: u64 = 1_000_000_000 / HZ as u64;

/// Seconds that one interface's packets may lag behind another's: far less than what voids a stamp.
const LAG_SECONDS: u32 = 30;

/// Largest time by which a packet may lie before one that stands earlier in the capture,
/// nanoseconds. Several queues or CPUs wrote into one capture. Beyond it, the clock was set.
pub const DISORDER_NS: u64 = 10_000_000;

/// [`DISORDER_NS`] in the matcher's units, rounded up.
#[expect(clippy::cast_possible_truncation, reason = "156,251")]
const DISORDER_UNITS: u32 = (DISORDER_NS / UNIT_NS) as u32 + 1;

/// Sizes and constants of the engine.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Entries of the flow table, 256 bytes each: a power of two, at least 4.
    pub flow_entries: u32,
    /// The methods that are on.
    pub methods: Methods,
    /// Seconds without a packet after which a flow may lose its entry.
    pub idle_seconds: u32,
    /// Addresses of the local ends.
    pub local: LocalEnd,
    /// Ports of the tunnels whose content is measured. By default none.
    pub tunnels: TunnelPorts,
    /// True: keep the flows that lose their entry for [`Engine::retired`].
    pub keep_flows: bool,
}

/// The engine: flow table, clock, and results.
pub struct Engine {
    settings: Settings,
    seeds: [u32; SEEDS],
    flows: Box<[FlowEntry]>,
    queries: Box<[QueryEntry]>,
    /// Table of requests, with as many entries as flows. Empty: the method is off.
    requests: Box<[RequestEntry]>,
    counters: [Cell<u64>; COUNTERS],
    /// Vantage of the current packet's interface.
    vantage: Cell<u8>,
    now_ns: Cell<u64>,
    jiffies: Cell<u32>,
    samples: RefCell<Vec<Sample>>,
    retired: RefCell<Vec<Flow>>,
    backwards: Cell<u64>,
    retransmitted: Cell<u64>,
    vlans: vlans::Vlans,
    /// Numbers of unanswered echo requests, of unanswered DNS queries, and of queries for which it
    /// is unknown.
    unanswered: [Cell<u64>; 3],
    /// Time of the last packet that could not be read, by the hash of its ends.
    told: Box<[Cell<u64>]>,
    /// Length of each datagram, if the current packet is several that were put together. Otherwise
    /// 0.
    segment_size: Cell<u32>,
    /// The methods that can measure the current packet.
    methods: Cell<Methods>,
    /// True: the current packet's options were cut.
    cut: Cell<bool>,
    optionless: Cell<u64>,
    zero: Cell<u64>,
}

impl Engine {
    /// Makes an engine with an empty flow table.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let flows = (0..settings.flow_entries)
            .map(|_| FlowEntry::default())
            .collect();
        let requests = if settings.methods.has(Method::Request) {
            settings.flow_entries
        } else {
            0
        };
        let requests = (0..requests).map(|_| RequestEntry::default()).collect();
        let methods = settings.methods;
        Self {
            requests,
            seeds: LoadSettings::new().seeds,
            flows,
            queries: queries::table(settings.flow_entries),
            settings,
            counters: [const { Cell::new(0) }; COUNTERS],
            vantage: Cell::new(0),
            now_ns: Cell::new(0),
            jiffies: Cell::new(0),
            samples: RefCell::default(),
            retired: RefCell::default(),
            backwards: Cell::new(0),
            retransmitted: Cell::new(0),
            vlans: vlans::Vlans::default(),
            unanswered: [const { Cell::new(0) }; 3],
            told: (0..queries::TOLD).map(|_| Cell::new(0)).collect(),
            segment_size: Cell::new(0),
            methods: Cell::new(methods),
            cut: Cell::new(false),
            optionless: Cell::new(0),
            zero: Cell::new(0),
        }
    }

    /// Measures a packet that passed an interface. `newest_ns` is the latest time that was seen
    /// there: the flows' idle times must not go back when packets are out of order.
    pub fn packet(&self, view: &View<'_>, place: &Place) {
        self.now_ns.set(place.now_ns);
        self.vantage.set(place.vantage);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the low 32 bits are wanted"
        )]
        let jiffies = (place.newest_ns / NANOS_PER_JIFFY) as u32;
        // The packets of interfaces lag behind each other while they wait. That makes no flow idle.
        if self.jiffies.get().wrapping_sub(jiffies) > LAG_SECONDS * HZ {
            self.jiffies.set(jiffies);
        }
        let bytes = Captured {
            data: view.data,
            len: view.len,
        };
        let meta = Meta {
            len: view.len,
            segments: 1,
            ifindex: place.ifindex,
            vlan: view.segment,
        };
        if self.settings.tunnels != TunnelPorts::default() {
            let whole = Unwrapped::whole(&meta, view.link);
            match self.unwrap(&bytes, whole, &meta) {
                Some(left) if left.level == 0 => {}
                Some(left) => return self.inside(&bytes, &left, &meta),
                None => return,
            }
        }
        if self.options_cut(&bytes, &Unwrapped::whole(&meta, view.link), &meta) {
            return;
        }
        let local = &self.settings.local;
        // The pipeline counts packets that cannot be read, on either path.
        let network = parse::network(&bytes, view.link, &meta, self.settings.methods).ok();
        let direction = network.as_ref().map_or(Direction::FromLocal, |network| {
            local.direction(self, &bytes, &meta, network)
        });
        let meta = match network {
            Some(network) if pipeline::is_datagram(&network) => {
                self.put_together(&bytes, &meta, &network, direction)
            }
            _ => meta,
        };
        pipeline::measure(&bytes, &self.context(meta, view.link, direction));
    }

    /// Removes the tunnel headers. None: there is nothing to measure, and the packet is counted.
    fn unwrap(&self, bytes: &Captured<'_>, whole: Unwrapped, meta: &Meta) -> Option<Unwrapped> {
        let mut left = whole;
        loop {
            match tunnel::unwrap(*bytes, &left, meta, &self.settings.tunnels, self) {
                Step::Plain => return Some(left),
                Step::Entered(inner) => left = inner,
                Step::Skipped => return None,
            }
        }
    }

    /// Measures a packet that was found in tunnels. Its own ends decide which of them is local.
    fn inside(&self, bytes: &Captured<'_>, left: &Unwrapped, meta: &Meta) {
        if self.options_cut(bytes, left, meta) {
            return;
        }
        let packet = tunnel::network(*bytes, left, meta, self)
            .and_then(|network| tunnel::transport(*bytes, left, meta, &network, self));
        let Some(packet) = packet else { return };
        let local = &self.settings.local;
        let direction = local.inside(self, &packet, meta.ifindex);
        let inner = tunnel::meta_of(left, meta);
        pipeline::enter(&packet, &self.context(inner, Link::Ethernet, direction));
    }

    /// Of a packet, or of what is left of it without its tunnels.
    fn context(
        &self,
        meta: Meta,
        link: Link,
        direction: Direction,
    ) -> PacketContext<'_, Self, Self> {
        PacketContext {
            meta,
            link,
            direction,
            host: self,
            env: self,
        }
    }

    /// Passes on the samples of the packets since the last call.
    pub fn samples(&self, mut take: impl FnMut(&Sample)) {
        let mut samples = self.samples.borrow_mut();
        samples.iter().for_each(&mut take);
        samples.clear();
    }

    /// Passes on the flows that lost their entries since the last call.
    pub fn retired(&self, mut take: impl FnMut(&Flow)) {
        let mut retired = self.retired.borrow_mut();
        retired.iter().for_each(&mut take);
        retired.clear();
    }

    /// The flows in the table.
    pub fn flows(&self) -> impl Iterator<Item = (Flow, &FlowEntry)> {
        let entries = self.flows.iter().enumerate();
        entries.filter_map(|(index, entry)| Some((Flow::read(index, entry)?, entry)))
    }

    /// True if flows that lose their entry are kept for [`Self::retired`].
    #[must_use]
    pub fn keeps_flows(&self) -> bool {
        self.settings.keep_flows
    }

    /// The secrets of the flow hash.
    pub(super) fn seeds(&self) -> &[u32; SEEDS] {
        &self.seeds
    }

    /// Number of segments of which any part was in the capture, or missing in it, before.
    #[must_use]
    pub fn retransmissions(&self) -> u64 {
        self.retransmitted.get()
    }

    /// The value of a counter.
    #[must_use]
    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters[counter as usize].get()
    }

    /// Number of echoes whose time lies before that of what they answer. They make no samples.
    #[must_use]
    pub fn backwards(&self) -> u64 {
        self.backwards.get()
    }

    /// Number of packets whose TCP options were cut, with timestamps maybe among them.
    #[must_use]
    pub fn optionless(&self) -> u64 {
        self.optionless.get()
    }

    /// Number of round trips shorter than the capture's clock, or the matcher's, can tell.
    #[must_use]
    pub fn zero(&self) -> u64 {
        self.zero.get()
    }

    fn count_zero(&self, is_zero: bool) {
        self.zero.set(self.zero.get() + u64::from(is_zero));
    }

    /// Forgets all flows and queries.
    pub fn clear(&self) {
        for entry in &self.flows {
            entry.fingerprint.store(0, Relaxed);
        }
        self.clear_questions();
        self.vlans.clear();
    }
}

/// Place and time of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Number of the interface in flow keys.
    pub ifindex: u32,
    /// A [`lpm_common::layout::Vantage`]. 0: not known.
    pub vantage: u8,
    /// Time of the packet, nanoseconds since 1970.
    pub now_ns: u64,
    /// The latest time seen at the interface, nanoseconds since 1970.
    pub newest_ns: u64,
}

impl Seeds for Engine {
    fn seed(&self, i: usize) -> u32 {
        self.seeds.seed(i)
    }
}

impl Env for Engine {
    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    fn jiffies(&self) -> u32 {
        self.jiffies.get()
    }

    fn hz(&self) -> u32 {
        HZ
    }

    fn methods(&self) -> Methods {
        self.methods.get()
    }

    fn add64(&self, to: &AtomicU64, n: u64) {
        // There is one thread, so a locked add is not needed.
        to.store(to.load(Relaxed).wrapping_add(n), Relaxed);
    }

    fn count(&self, counter: Counter, n: u64) {
        // It is unknown whether there are timestamps.
        if self.cut.get() && matches!(counter, Counter::NoTimestamp) {
            return;
        }
        let cell = &self.counters[counter as usize];
        cell.set(cell.get() + n);
    }

    fn sample(&self, entry: &FlowEntry, matched: &RttSample) {
        // The echo was captured before what it answers, within the allowed disorder: the difference
        // wrapped.
        if matched.units > u32::MAX - DISORDER_UNITS {
            self.backwards.set(self.backwards.get() + 1);
            return;
        }
        self.count_zero(matched.units == 0);
        matcher::update_statistics(&entry.slots[usize::from(matched.leg)], matched.units);
        self.samples.borrow_mut().push(sample(entry, matched));
    }

    fn request(&self, entry: &FlowEntry, _: &RequestEntry, request: &RequestSample) {
        let matched = RttSample {
            now_ns: request.now_ns,
            units: 0,
            id: request.id,
            leg: request.leg,
            echo: Echo::Data as u8,
            method: Method::Request as u8,
        };
        self.samples.borrow_mut().push(Sample {
            rtt_ns: request.rtt_ns,
            ..sample(entry, &matched)
        });
    }

    fn retransmitted(&self, _: &FlowEntry, _: u8, segments: u32) {
        let sum = &self.retransmitted;
        sum.set(sum.get() + u64::from(segments));
    }

    fn unanswered(&self, row: u32, _: u32, sent_ns: u64) {
        self.count_unanswered(row, sent_ns);
    }

    fn retire(&self, entry: &FlowEntry) {
        if self.settings.keep_flows {
            self.retired.borrow_mut().extend(Flow::read(0, entry));
        }
    }

    fn publish(&self, to: &AtomicU64, fingerprint: u64) {
        to.store(fingerprint, Relaxed);
    }

    fn segment_size(&self) -> u32 {
        // A capture does not say. For TCP the MSS of the SYNs does.
        self.segment_size.get()
    }
}

/// Makes a sample in the form that the kernel passes to the agent.
fn sample(entry: &FlowEntry, matched: &RttSample) -> Sample {
    let cold = &entry.cold;
    let local = [0, 1, 2, 3].map(|i: usize| cold.local[i].load(Relaxed));
    let remote = [0, 1, 2, 3].map(|i: usize| cold.remote[i].load(Relaxed));
    let (local_port, remote_port) = (
        cold.local_port.load(Relaxed),
        cold.remote_port.load(Relaxed),
    );
    let ((src, sport), (dst, dport)) = if matched.leg == Leg::Remote as u8 {
        ((local, local_port), (remote, remote_port))
    } else {
        ((remote, remote_port), (local, local_port))
    };
    Sample {
        time_ns: matched.now_ns,
        rtt_ns: u64::from(matched.units) * UNIT_NS,
        src,
        dst,
        id: matched.id,
        ifindex: cold.ifindex.load(Relaxed),
        segment: cold.segment.load(Relaxed),
        sport,
        dport,
        leg: matched.leg,
        echo: matched.echo,
        method: matched.method,
        vantage: cold.vantage(),
        outer_vni: cold.outer_vni(),
    }
}

impl Table for Engine {
    fn entry(&self, index: u32) -> Option<&FlowEntry> {
        self.flows.get(index as usize)
    }

    fn set_mask(&self) -> u32 {
        self.settings.flow_entries / table::WAYS - 1
    }

    fn idle_jiffies(&self) -> u32 {
        self.settings.idle_seconds * HZ
    }

    fn request(&self, index: u32) -> Option<&RequestEntry> {
        self.requests.get(index as usize)
    }
}

impl Claims for Engine {
    fn claim(&self, _: u32) -> bool {
        true
    }

    fn release(&self, _: u32) {}
}

impl Interfaces for Engine {
    fn config(&self, _: u32) -> Option<InterfaceConfig> {
        Some(InterfaceConfig {
            vantage: self.vantage.get(),
            ..InterfaceConfig::default()
        })
    }
}
