//! Sequences of packets of a few flows through the host model.
//!
//! The checks know nothing of how a round trip is found. They know when each packet passed: a round
//! trip must be the time between the packet at hand and one that went the other way before, of the
//! same flow, to the tick. `LPM_FUZZ_SHOW=1` prints the packets.

use arbitrary::{Arbitrary, Result, Unstructured};
use lpm_common::{
    counter::Counter,
    host::{Arrival, Model},
    layout::{Method, Methods, UNIT_NS},
    packet::{Direction, flag},
    parse::Link,
    testing::{
        frame::Frame,
        query::{Message, echo},
        tunnel::{wrap, wrappings},
        vectors,
    },
};

use crate::packet::{TUNNELS, direction, small};

/// Most packets of a sequence.
const MOST: usize = 96;
/// Silence after which a flow's stamps are void, with the tick by which the clock may be behind.
const SILENCE_NS: u64 = 201_100_000_000;
/// Number of flows.
const FLOWS: usize = 4;

/// What both ends of a flow have sent.
#[derive(Default)]
struct Flow {
    /// Next sequence number of each end; 0 is the local one.
    next: [u32; 2],
    /// Last timestamp of each end.
    tick: [u32; 2],
    /// When packets passed, by direction.
    passed: [Vec<u64>; 2],
}

/// How a packet relates to what its sender sent before.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Kind {
    Next(u16),
    Again(u16),
    Hole(u16),
    Ack,
    Syn,
    SynAck,
    Fin,
    Rst,
    Any { seq: u32, ack: u32, flags: u8 },
}

/// The time before a packet.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Gap {
    None,
    Micros(u16),
    Millis(u16),
    Seconds(u16),
    Nanos(u32),
}

impl Gap {
    fn ns(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Micros(n) => u64::from(n) * 1_000,
            Self::Millis(n) => u64::from(n) * 1_000_000,
            Self::Seconds(n) => u64::from(n) * 1_000_000_000,
            Self::Nanos(n) => u64::from(n),
        }
    }
}

/// One packet.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Step {
    flow: u8,
    to_local: bool,
    kind: Kind,
    /// How much stays unacknowledged.
    behind: u16,
    stamps: Stamps,
    gap: Gap,
    segments: u8,
}

/// The timestamp option.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Stamps {
    /// As a stack sets them, so many ticks further.
    Usual(u8),
    None,
    Any(u32, u32),
}

impl Flow {
    fn frame(&mut self, step: &Step, number: usize) -> Frame {
        let (local, remote) = vectors::ends(number % 2 == 1);
        let port = 5301 + u16::try_from(number / 2).expect("a few flows");
        let (own, other) = (usize::from(step.to_local), usize::from(!step.to_local));
        let mut frame = if step.to_local {
            Frame::new(remote, local, port, 41140)
        } else {
            Frame::new(local, remote, 41140, port)
        };
        let next = self.next[own];
        frame.seq = next;
        frame.ack = self.next[other].wrapping_sub(u32::from(step.behind));
        match step.kind {
            Kind::Next(bytes) => frame.payload = u32::from(bytes % 1461),
            Kind::Again(back) => {
                frame.seq = next.wrapping_sub(u32::from(back));
                frame.payload = u32::from(back % 1461);
            }
            Kind::Hole(left_out) => {
                frame.seq = next.wrapping_add(u32::from(left_out));
                frame.payload = 10;
            }
            Kind::Ack => {}
            Kind::Syn => frame.flags = flag::SYN,
            Kind::SynAck => frame.flags |= flag::SYN,
            Kind::Fin => frame.flags |= flag::FIN,
            Kind::Rst => frame.flags |= flag::RST,
            Kind::Any { seq, ack, flags } => {
                (frame.seq, frame.ack, frame.flags) = (seq, ack, flags);
            }
        }
        let one = u32::from(frame.flags & (flag::SYN | flag::FIN) != 0);
        let end = frame.seq.wrapping_add(frame.payload + one);
        if end.wrapping_sub(next).cast_signed() > 0 {
            self.next[own] = end;
        }
        frame.timestamp = match step.stamps {
            Stamps::Usual(ticks) => {
                self.tick[own] = self.tick[own].wrapping_add(u32::from(ticks));
                Some((self.tick[own], self.tick[other]))
            }
            Stamps::None => None,
            Stamps::Any(value, echo) => Some((value, echo)),
        };
        frame
    }

    /// True if a packet of a direction passed exactly so many units before.
    ///
    /// Times wrap at 2^32 units, 275 s. A flow that is never silent for [`SILENCE_NS`] may keep a
    /// stamp for longer: `docs/limits.md` says so.
    fn spans(&self, stamped: Direction, now_ns: u64, units: u32) -> bool {
        let tick = |ns: u64| ns / UNIT_NS;
        let mut all: Vec<u64> = self.passed.concat();
        all.push(now_ns);
        all.sort_unstable();
        let mut passed = self.passed[stamped.index()].iter();
        passed.any(|then| {
            let span = tick(now_ns) - tick(*then);
            let since: Vec<u64> = all.iter().copied().filter(|time| time >= then).collect();
            let is_busy = since
                .array_windows()
                .all(|[one, next]| next - one <= SILENCE_NS);
            span == u64::from(units) || is_busy && span % (1 << 32) == u64::from(units)
        })
    }
}

/// Any packets of four flows, plain or in tunnels, at one interface.
pub fn flows(data: &[u8]) {
    // What is left over of an input that ends too early changes nothing.
    let _ = sequence(&mut Unstructured::new(data));
}

fn sequence(data: &mut Unstructured<'_>) -> Result<()> {
    let all = Method::ALL.into_iter().collect();
    let methods = *data.choose(&[Methods::DEFAULT, all, only(Method::Seq), only(Method::Ts)])?;
    let mut model = small(methods);
    let (inner, joined): (bool, bool) = (data.arbitrary()?, data.arbitrary()?);
    if inner {
        model.tunnels = TUNNELS;
    }
    let mut flows: [Flow; FLOWS] = std::array::from_fn(|_| Flow::default());
    for (tick, flow) in (0..).zip(&mut flows) {
        flow.next = data.arbitrary()?;
        flow.tick = [tick; 2];
    }
    let (mut now_ns, mut packets) = (1_000_000_000, 0_u64);
    let tunnels = wrappings();
    let shown = std::env::var_os("LPM_FUZZ_SHOW").is_some();
    if shown {
        println!("{methods:?}, tunnels {inner}, node {joined}");
    }
    for _ in 0..MOST {
        if data.is_empty() {
            break;
        }
        let step = Step::arbitrary(data)?;
        let number = usize::from(step.flow) % FLOWS;
        let flow = &mut flows[number];
        now_ns += step.gap.ns();
        let mut bytes = flow.frame(&step, number).bytes();
        if inner && !joined {
            let (_, around) = data.choose(&tunnels[..3])?;
            bytes = wrap(&bytes, around);
        }
        if shown {
            println!("{now_ns} {number} {step:?} {:?}", &flow.next);
        }
        let way = direction(step.to_local);
        let segments = u32::from(step.segments % 4) + 1;
        let arrival = arrival(now_ns, way, segments);
        let before = (model.samples.borrow().len(), model.requested.borrow().len());
        if joined {
            model.joined_packet(&bytes, &arrival);
        } else {
            model.packet(&bytes, &arrival);
        }
        packets += u64::from(segments);
        check(&model, before, flow, &arrival);
        flow.passed[way.index()].push(now_ns);
    }
    check_counts(&model, packets);
    Ok(())
}

fn only(method: Method) -> Methods {
    [method, Method::Handshake].into_iter().collect()
}

fn arrival(now_ns: u64, direction: Direction, segments: u32) -> Arrival {
    Arrival {
        now_ns,
        link: Link::Ethernet,
        direction,
        ifindex: 1,
        vlan: 0,
        segments,
        segment_size: if segments > 1 { 365 } else { 0 },
    }
}

/// Round trips that this packet has ended: each spans two packets that passed.
fn check(model: &Model, (samples, requests): (usize, usize), flow: &Flow, arrival: &Arrival) {
    let now = arrival.now_ns;
    for sample in &model.samples.borrow()[samples..] {
        assert_eq!(sample.now_ns, now);
        let leg = direction(sample.leg == 1);
        assert_eq!(leg, arrival.direction.reverse(), "{sample:?}");
        assert!(flow.spans(leg, now, sample.units), "{sample:?}");
    }
    for request in &model.requested.borrow()[requests..] {
        assert!(request.now_ns <= now, "{request:?}");
        let began = request.now_ns.checked_sub(request.rtt_ns);
        let began = began.expect("a request that began after time did");
        let passed = &flow.passed[usize::from(request.leg)];
        let is_near = |then: &u64| then.abs_diff(began) <= 2 * UNIT_NS;
        assert!(passed.iter().any(is_near), "{request:?}");
    }
}

/// The counters and what was measured tell the same.
fn check_counts(model: &Model, packets: u64) {
    let samples = model.samples.borrow();
    for method in [Method::Seq, Method::Handshake] {
        let counter = Counter::sampled(method as u8).expect("a counted method");
        let found = samples.iter().filter(|one| one.method == method as u8);
        assert_eq!(model.counter(counter), found.count() as u64, "{method:?}");
    }
    let requests = model.requested.borrow().len() as u64;
    assert_eq!(model.counter(Counter::SampledRequest), requests);
    let sent: u64 = model.retransmitted.borrow().iter().flatten().sum();
    assert!(sent <= packets, "{sent} copies of {packets} packets");
    let entries = model.flows.iter().map(|entry| &entry.slots);
    let kept: u64 = entries
        .flatten()
        .map(|slots| u64::from(slots.samples.load(std::sync::atomic::Ordering::Relaxed)))
        .sum();
    assert!(kept <= samples.len() as u64, "{kept} of {}", samples.len());
}

/// A ping or a DNS message, by UDP or by TCP, as it should be or with one byte changed.
#[derive(Arbitrary, Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one property of a message, and any combination may come"
)]
struct Talk {
    kind: u8,
    v6: bool,
    id: u8,
    answers: bool,
    rcode: u8,
    odd_way: bool,
    noise: Option<(u8, u8)>,
    cut: Option<u8>,
    gap: Gap,
    merged: bool,
}

impl Talk {
    fn to_local(&self) -> bool {
        self.answers != self.odd_way
    }

    fn frame(&self) -> Vec<u8> {
        let (local, remote) = vectors::ends(self.v6);
        let (src, dst, sport, dport) = if self.to_local() {
            (remote, local, 53, 4000)
        } else {
            (local, remote, 4000, 53)
        };
        let id = u16::from(self.id % 4);
        let message = if self.answers {
            Message::answer(id, u16::from(self.rcode % 16))
        } else {
            Message::query(id)
        };
        let mut frame = match self.kind % 3 {
            0 => echo(src, dst, self.answers, 1, id),
            1 => Message::tcp(&[message], src, dst, sport, dport),
            _ => message.udp(src, dst, sport, dport),
        };
        if let Some((at, byte)) = self.noise {
            let bytes = frame
                .other
                .as_mut()
                .map_or(&mut frame.data, |other| &mut other.1);
            let at = usize::from(at) % bytes.len();
            bytes[at] = byte;
        }
        let mut bytes = frame.bytes();
        if let Some(cut) = self.cut {
            bytes.truncate(bytes.len() - usize::from(cut) % bytes.len());
        }
        bytes
    }
}

/// Any pings and DNS messages with their answers.
pub fn queries(data: &[u8]) {
    let _ = talks(&mut Unstructured::new(data));
}

fn talks(data: &mut Unstructured<'_>) -> Result<()> {
    let model = small(Methods::DEFAULT);
    let joined: bool = data.arbitrary()?;
    let (mut now_ns, mut asked) = (1_000_000_000, Vec::new());
    for _ in 0..MOST {
        if data.is_empty() {
            break;
        }
        let talk = Talk::arbitrary(data)?;
        now_ns += talk.gap.ns();
        let segments = if talk.merged { 3 } else { 1 };
        let way = direction(talk.to_local());
        let arrival = arrival(now_ns, way, segments);
        let before = model.answers.borrow().len();
        let bytes = talk.frame();
        if joined {
            model.joined_packet(&bytes, &arrival);
        } else {
            model.packet(&bytes, &arrival);
        }
        for answer in &model.answers.borrow()[before..] {
            assert_eq!(answer.now_ns, now_ns);
            let span = |(then, of): &(u64, Direction)| {
                now_ns - then == answer.rtt_ns && *of == way.reverse()
            };
            assert!(asked.iter().any(span), "{answer:?}");
        }
        asked.push((now_ns, way));
    }
    Ok(())
}
