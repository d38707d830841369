//! Replay: runs captures through the matcher that also measures live packets (`lpm replay`).
//!
//! [`capture`] reads packets from a file. [`link`] removes the headers before IP. [`interfaces`]
//! keeps interfaces and clocks apart. [`order`] puts packets in the order of their times.
//! [`copies`] leaves out what was recorded twice. [`local_end`] decides which end is local.
//! [`engine`] does the kernel's part. [`Replay`] drives them.
//!
//! Memory does not grow with the capture: one buffer, one table, a bounded number of packets that
//! wait, and with [`flows`] a bounded number of summaries. Nothing here needs the kernel.

pub mod anonymize;
pub mod bytes;
pub mod capture;
pub mod copies;
pub mod cut;
pub mod digest;
pub mod engine;
pub mod flows;
pub mod interfaces;
pub mod link;
pub mod local_end;
pub mod order;
pub mod sparse_histogram;
pub mod tick;

use std::{
    io::{self, Read},
    sync::atomic::Ordering,
};

use lpm_common::{counter::Counter, env::Env as _, layout::Sample};

pub use self::{
    anonymize::Anonymizer,
    capture::{Capture, CaptureError, Input},
    engine::{Engine, Settings, Unanswered},
    flows::Flows,
    interfaces::{Choice, Interfaces},
    local_end::LocalEnd,
    order::Disorder,
    sparse_histogram::ByClass,
};
use self::{
    capture::Packet,
    copies::{Copies, Verdict},
    digest::{Digest, Digester},
    interfaces::{CaptureInterface, Entry},
    link::View,
    order::Order,
};
use crate::passive::Flow;

/// Packets after which the words that count a flow's traffic are emptied. They wrap at 67 million
/// packets, or at 275 GB.
const CARRY: u64 = 1 << 18;

/// Longest packet that is accepted, bytes. No stack makes longer ones (BIG TCP).
const LONGEST: u32 = 1 << 19;

/// Receiver of a replay's results.
pub trait Sink {
    /// Receives a round trip, at the interface of this name.
    ///
    /// # Errors
    /// The round trip cannot be written.
    fn sample(&mut self, sample: &Sample, interface: &str) -> io::Result<()>;

    /// Receives a flow that lost its entry, or that the capture's end has ended.
    fn flow(&mut self, flow: &Flow);

    /// Receives a flow's counts so far. Returns the words to leave in its entry.
    fn carry(&mut self, flow: &Flow) -> Option<[u64; 2]>;

    /// Receives a warning for the user, once.
    fn warning(&mut self, text: &str);
}

/// Why a replay ended before the capture did.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The capture has an error.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The results cannot be written.
    #[error(transparent)]
    Output(io::Error),
}

/// Numbers of packets seen in a capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Number of packets in the capture.
    pub packets: u64,
    /// Bytes of the packets on the wire.
    pub bytes: u64,
    /// Number of packets of which the end was not captured.
    pub cut: u64,
    /// Number of packets of link types that are not read.
    pub unread: u64,
    /// Number of packets of interfaces that were not asked for.
    pub elsewhere: u64,
    /// Earliest and latest time, nanoseconds since 1970.
    pub span_ns: Option<(u64, u64)>,
}

/// A capture on its way through the matcher.
pub struct Replay<R> {
    capture: Capture<R>,
    way: Way,
    order: Order,
    digester: Digester,
    seen: Seen,
    warned: usize,
}

/// The stages after the ordering: copies, interfaces, and the engine.
struct Way {
    engine: Engine,
    places: Interfaces,
    copies: Copies,
}

impl<R: Read> Replay<R> {
    /// Starts a replay of an opened capture. Packets that are out of order by less than `window_ns`
    /// are put in order, see [`order::WINDOW_NS`]. 0: they are measured as they come.
    #[must_use]
    pub fn new(capture: Capture<R>, settings: Settings, choice: Choice, window_ns: u64) -> Self {
        let tunnels = settings.tunnels;
        let engine = Engine::new(settings);
        Self {
            capture,
            digester: Digester::new(*engine.seeds(), tunnels),
            order: Order::new(window_ns),
            way: Way {
                engine,
                places: Interfaces::new(choice),
                copies: Copies::default(),
            },
            seen: Seen::default(),
            warned: 0,
        }
    }

    /// Replays up to this many packets. False: the capture has ended, and its flows were passed on.
    ///
    /// # Errors
    /// The capture has an error (everything before was passed on, call [`Self::end`]), or the
    /// results cannot be written.
    pub fn run(&mut self, packets: u64, sink: &mut impl Sink) -> Result<bool, ReplayError> {
        for _ in 0..packets {
            if !self.packet(sink)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Measures the packets that still wait, and passes on the flows that have entries.
    ///
    /// # Errors
    /// The results cannot be written.
    pub fn end(&mut self, sink: &mut impl Sink) -> io::Result<()> {
        for (lane, held) in self.order.drain() {
            let (view, digest) = (held.view(), held.digest.as_ref());
            self.way.measure(lane, held.time_ns, &view, digest, sink)?;
        }
        hand_out(&self.way.engine, sink);
        Ok(())
    }

    fn packet(&mut self, sink: &mut impl Sink) -> Result<bool, ReplayError> {
        let Some((packet, interfaces)) = self.capture.next_packet()? else {
            self.end(sink).map_err(ReplayError::Output)?;
            return Ok(false);
        };
        while let Some(interface) = interfaces.get(self.warned) {
            self.warned += 1;
            if let Some(warning) = interfaces::warning(interface) {
                sink.warning(&warning);
            }
        }
        self.seen.count(&packet);
        let interface = &interfaces[packet.interface];
        if !link::is_known(interface.link) {
            self.seen.unread += 1;
            return Ok(true);
        }
        let longest = LONGEST.max(u32::try_from(packet.data.len()).unwrap_or(u32::MAX));
        let view = match link::view(interface.link, packet.data, packet.len.min(longest)) {
            Ok(view) => view,
            Err(skip) => {
                self.way.engine.count(skip.counter(), 1);
                return Ok(true);
            }
        };
        let source = CaptureInterface {
            number: packet.interface,
            cooked: view.ifindex,
        };
        let Some(lane) = self.way.places.find(source, interface) else {
            self.seen.elsewhere += 1;
            return Ok(true);
        };
        let digest = self.digester.digest(&view);
        let order = &mut self.order;
        if order.window_ns() == 0 {
            order.watch(lane, digest.as_ref(), packet.time_ns);
            let digest = digest.as_ref();
            self.way.measure(lane, packet.time_ns, &view, digest, sink)
        } else {
            order.push(lane, &view, digest, packet.time_ns);
            self.way.wait(order, lane, sink)
        }
        .map_err(ReplayError::Output)?;
        self.carry(sink);
        Ok(true)
    }

    /// Passes on the counts of flows, before the words that count them wrap.
    fn carry(&mut self, sink: &mut impl Sink) {
        let engine = &self.way.engine;
        if engine.keeps_flows() && self.seen.packets.is_multiple_of(CARRY) {
            for (flow, entry) in engine.flows() {
                if let Some(left) = sink.carry(&flow) {
                    for (hot, left) in entry.hot.iter().zip(left) {
                        hot.traffic.store(left, Ordering::Relaxed);
                    }
                }
            }
        }
    }

    /// Numbers of packets seen so far.
    #[must_use]
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// The interfaces that packets came from.
    #[must_use]
    pub fn places(&self) -> &Interfaces {
        &self.way.places
    }

    /// Number of segments of which any part was in the capture, or missing in it, before.
    #[must_use]
    pub fn retransmissions(&self) -> u64 {
        self.way.engine.retransmissions()
    }

    /// Numbers of queries that nobody answered in time.
    #[must_use]
    pub fn unanswered(&self) -> Unanswered {
        self.way.engine.unanswered()
    }

    /// The value of a counter.
    #[must_use]
    pub fn counter(&self, counter: Counter) -> u64 {
        self.way.engine.counter(counter)
    }

    /// Number of echoes whose time lies before that of what they answer. They make no samples.
    #[must_use]
    pub fn backwards(&self) -> u64 {
        self.way.engine.backwards()
    }

    /// Number of packets whose TCP options were cut, with timestamps maybe among them. The methods
    /// that need no options measure them.
    #[must_use]
    pub fn optionless(&self) -> u64 {
        self.way.engine.optionless()
    }

    /// Number of round trips of 0 ns, which are shorter than the capture's clock can tell.
    #[must_use]
    pub fn zero(&self) -> u64 {
        self.way.engine.zero()
    }

    /// How far packets were out of order.
    #[must_use]
    pub fn disorder(&self) -> Disorder {
        self.order.disorder
    }

    /// Time for which packets are held to be put in order, nanoseconds. 0: they are not held.
    #[must_use]
    pub fn window_ns(&self) -> u64 {
        self.order.window_ns()
    }

    /// Numbers of packets that were recorded twice and left out, and of packets that may have been.
    #[must_use]
    pub fn copies(&self) -> (u64, u64) {
        (self.way.copies.copies, self.way.copies.unsure)
    }

    /// Number of records whose part of a second is a second or more. It was carried over.
    #[must_use]
    pub fn carried(&self) -> u64 {
        self.capture.carried()
    }

    /// True if there were packets, and all of them have link types that are not read.
    #[must_use]
    pub fn unreadable(&self) -> bool {
        self.seen.packets > 0 && self.seen.unread == self.seen.packets
    }

    /// Number of packets that have no time.
    #[must_use]
    pub fn untimed(&self) -> u64 {
        self.capture.untimed()
    }
}

impl Way {
    /// Measures the packets that need not wait any longer.
    fn wait(&mut self, order: &mut Order, lane: usize, sink: &mut impl Sink) -> io::Result<()> {
        while let Some(held) = order.next(lane) {
            self.measure(lane, held.time_ns, &held.view(), held.digest.as_ref(), sink)?;
        }
        // Other interfaces hold all the memory.
        if order.is_full() {
            for (lane, held) in order.drain() {
                self.measure(lane, held.time_ns, &held.view(), held.digest.as_ref(), sink)?;
            }
        }
        Ok(())
    }

    /// Measures a packet whose turn it is.
    fn measure(
        &mut self,
        lane: usize,
        time_ns: u64,
        view: &View<'_>,
        digest: Option<&Digest>,
        sink: &mut impl Sink,
    ) -> io::Result<()> {
        let place = match self.places.enter(lane, time_ns) {
            Some(Entry::At(place)) => place,
            Some(Entry::Anew(place)) => {
                hand_out(&self.engine, sink);
                place
            }
            None => return Ok(()),
        };
        let copies = &mut self.copies;
        let is_copy = digest
            .is_some_and(|digest| copies.judge(place.ifindex, digest, time_ns) == Verdict::Copy);
        if !is_copy {
            self.engine.packet(view, &place);
        }
        let places = &self.places;
        let mut outcome = Ok(());
        self.engine.samples(|sample| {
            let name = places.spot(sample.ifindex).map_or("", |spot| &spot.name);
            if outcome.is_ok() {
                outcome = sink.sample(sample, name);
            }
        });
        self.engine.retired(|flow| sink.flow(flow));
        outcome
    }
}

/// Passes on all flows that have entries, and frees the entries.
fn hand_out(engine: &Engine, sink: &mut impl Sink) {
    for (flow, _) in engine.flows() {
        sink.flow(&flow);
    }
    engine.clear();
}

impl Seen {
    fn count(&mut self, packet: &Packet<'_>) {
        self.packets += 1;
        self.bytes += u64::from(packet.len);
        self.cut += u64::from(packet.data.len() < packet.len as usize);
        let (first, last) = self.span_ns.unwrap_or((packet.time_ns, packet.time_ns));
        self.span_ns = Some((first.min(packet.time_ns), last.max(packet.time_ns)));
    }
}
