//! Captures through the same matcher as packets: `lpm replay`.
//!
//! [`capture`] reads packets from a file, [`link`] takes off what stands before IP, [`interfaces`]
//! keeps interfaces and clocks apart, [`order`] puts packets in the order of their times, [`copies`]
//! leaves out what was recorded twice, [`local_end`] says which end is local, [`engine`] is the
//! kernel's part; [`Replay`] drives them. Memory does not grow with the capture: one buffer, one
//! table, a bounded number of packets that wait, and with [`flows`] a bounded number of summaries.
//! Nothing here needs the kernel.

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
    interfaces::Entry,
    link::View,
    order::Order,
};
use crate::passive::Flow;

/// Packets after which the words that count a flow's traffic are emptied: they wrap at 67 million
/// packets, or at 275 GB.
const CARRY: u64 = 1 << 18;

/// Longest packet that is believed, bytes: more no stack makes (BIG TCP).
const LONGEST: u32 = 1 << 19;

/// Who takes what comes out.
pub trait Sink {
    /// A round trip, at the interface of this name.
    ///
    /// # Errors
    /// It cannot be written.
    fn sample(&mut self, sample: &Sample, interface: &str) -> io::Result<()>;

    /// A flow lost its entry, or the capture has ended.
    fn flow(&mut self, flow: &Flow);

    /// What a flow's entry counted so far is to be taken; returns what shall be left there.
    fn carry(&mut self, flow: &Flow) -> Option<[u64; 2]>;

    /// Something that the user should know, once.
    fn warning(&mut self, text: &str);
}

/// Why a replay ended before the capture did.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The capture is at fault.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// What came out cannot be written.
    #[error(transparent)]
    Output(io::Error),
}

/// What was seen of a capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Packets in the capture.
    pub packets: u64,
    /// Their bytes on the wire.
    pub bytes: u64,
    /// Those of which the end was not captured.
    pub cut: u64,
    /// Those of link types that are not read.
    pub unread: u64,
    /// Those of interfaces that were not asked for.
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

/// The way of a packet whose turn it is.
struct Way {
    engine: Engine,
    places: Interfaces,
    copies: Copies,
}

impl<R: Read> Replay<R> {
    /// Of a capture that was opened. Packets that are out of order by less than `window_ns` are put
    /// in order, see [`order::WINDOW_NS`]; 0: they are measured as they come.
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

    /// Replays up to this many packets; false: the capture has ended, and its flows were handed
    /// out.
    ///
    /// # Errors
    /// The capture is at fault (everything before was handed out, call [`Self::end`]), or what
    /// came out cannot be written.
    pub fn run(&mut self, packets: u64, sink: &mut impl Sink) -> Result<bool, ReplayError> {
        for _ in 0..packets {
            if !self.packet(sink)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Measures what still waits, and hands out the flows that have entries.
    ///
    /// # Errors
    /// What came out cannot be written.
    pub fn end(&mut self, sink: &mut impl Sink) -> io::Result<()> {
        for (lane, held) in self.order.drain() {
            let at = (lane, held.time_ns);
            self.way
                .measure(at, &held.view(), held.digest.as_ref(), sink)?;
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
        let source = (packet.interface, view.ifindex);
        let Some(lane) = self.way.places.find(source, interface) else {
            self.seen.elsewhere += 1;
            return Ok(true);
        };
        let digest = self.digester.digest(&view);
        let order = &mut self.order;
        if order.window_ns() == 0 {
            order.watch(lane, digest.as_ref(), packet.time_ns);
            let at = (lane, packet.time_ns);
            self.way.measure(at, &view, digest.as_ref(), sink)
        } else {
            order.push(lane, &view, digest, packet.time_ns);
            self.way.wait(order, lane, sink)
        }
        .map_err(ReplayError::Output)?;
        self.carry(sink);
        Ok(true)
    }

    /// Hands on what flows counted, before the words that count it wrap.
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

    /// What was seen so far.
    #[must_use]
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// The interfaces that packets came from.
    #[must_use]
    pub fn places(&self) -> &Interfaces {
        &self.way.places
    }

    /// Segments any part of which was in the capture, or missing in it, before.
    #[must_use]
    pub fn retransmissions(&self) -> u64 {
        self.way.engine.retransmissions()
    }

    /// Questions that nobody answered in time.
    #[must_use]
    pub fn unanswered(&self) -> Unanswered {
        self.way.engine.unanswered()
    }

    /// The value of a counter.
    #[must_use]
    pub fn counter(&self, counter: Counter) -> u64 {
        self.way.engine.counter(counter)
    }

    /// Echoes whose time lies before that of what they answer: no samples.
    #[must_use]
    pub fn backwards(&self) -> u64 {
        self.way.engine.backwards()
    }

    /// Packets whose TCP options were cut, timestamps maybe among them: measured by what needs none.
    #[must_use]
    pub fn optionless(&self) -> u64 {
        self.way.engine.optionless()
    }

    /// Round trips of 0 ns: shorter than what the capture's clock can tell.
    #[must_use]
    pub fn zero(&self) -> u64 {
        self.way.engine.zero()
    }

    /// How far packets were out of order.
    #[must_use]
    pub fn disorder(&self) -> Disorder {
        self.order.disorder
    }

    /// How long packets are held to be put in order, nanoseconds; 0: they are not.
    #[must_use]
    pub fn window_ns(&self) -> u64 {
        self.order.window_ns()
    }

    /// Packets that were recorded twice and left out, and those that may have been.
    #[must_use]
    pub fn copies(&self) -> (u64, u64) {
        (self.way.copies.copies, self.way.copies.unsure)
    }

    /// Records of which the part of a second is a second or more: it was carried over.
    #[must_use]
    pub fn carried(&self) -> u64 {
        self.capture.carried()
    }

    /// Whether there were packets, and all of them of link types that are not read.
    #[must_use]
    pub fn unreadable(&self) -> bool {
        self.seen.packets > 0 && self.seen.unread == self.seen.packets
    }

    /// Packets that carry no time.
    #[must_use]
    pub fn untimed(&self) -> u64 {
        self.capture.untimed()
    }
}

impl Way {
    /// Measures what need not wait any longer.
    fn wait(&mut self, order: &mut Order, lane: usize, sink: &mut impl Sink) -> io::Result<()> {
        while let Some(held) = order.next(lane) {
            let at = (lane, held.time_ns);
            self.measure(at, &held.view(), held.digest.as_ref(), sink)?;
        }
        // Others hold all memory.
        if order.is_full() {
            for (lane, held) in order.drain() {
                let at = (lane, held.time_ns);
                self.measure(at, &held.view(), held.digest.as_ref(), sink)?;
            }
        }
        Ok(())
    }

    /// Measures a packet whose turn it is.
    fn measure(
        &mut self,
        (lane, time_ns): (usize, u64),
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

/// Hands out all flows that have entries, and frees these.
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
