//! A forger at a flow, and the true packets that look like one's.

use proptest::prelude::*;

use core::sync::atomic::Ordering::Relaxed;

use crate::{
    counter::Counter,
    host::{Arrival, Model, Settings},
    layout::{FlowEntry, Methods},
    matcher::{FlowPacket, Wire, fast_ts},
    packet::{
        Direction::{self, FromLocal, ToLocal},
        TcpHead, flag,
    },
    parse::Link,
    testing::{frame::Frame, vectors},
};

const MS: u64 = 1_000_000;
const BOTH: u8 = flag::ACK;

/// Where the other direction goes another way, each packet of a busy flow is on the fast path.
#[test]
fn a_flow_with_one_direction_only_is_on_the_fast_path() {
    let mut talk = Talk::new([1_000, 0], true);
    talk.model = Model::new(talk.model.settings);
    for number in 0..4 {
        talk.now += 100 * MS;
        talk.pass(
            ToLocal,
            BOTH,
            [5_000 + 10 * number, 0xfff_ffff],
            10,
            [100 + number, 7],
        );
    }
    let is_used = |entry: &&FlowEntry| entry.fingerprint.load(Relaxed) != 0;
    let entry = talk.model.flows.iter().find(is_used).expect("the flow");
    let at = FlowPacket {
        entry,
        fingerprint: entry.fingerprint.load(Relaxed),
        direction: ToLocal,
        wire: Wire::new(100, 1, 66),
    };
    let head = TcpHead {
        seq: 5_040,
        ack: 0xfff_ffff,
        payload: 10,
        tsval: 104,
        tsecr: 7,
        headers: 66,
        options: 12,
        flags: BOTH,
        has_timestamp: true,
        sack: false,
        mss: 0,
    };
    assert!(fast_ts(&at, &head, &talk.model));
}

/// A conversation that begins at these sequence numbers.
struct Talk {
    model: Model,
    now: u64,
    next: [u32; 2],
    timed: bool,
}

impl Talk {
    fn new(next: [u32; 2], timed: bool) -> Self {
        let model = Model::new(Settings {
            flow_entries: 64,
            rows: 8,
            seeds: core::array::from_fn(|i| 0x9e37_79b9_u32.wrapping_mul(i as u32 + 1)),
            hz: 250,
            query_entries: 16,
            idle_seconds: 30,
            methods: Methods::DEFAULT,
        });
        let mut talk = Self {
            model,
            now: 1_000 * MS,
            next,
            timed,
        };
        talk.open();
        talk
    }

    fn open(&mut self) {
        self.say(FromLocal, flag::SYN, 0);
        self.say(ToLocal, flag::SYN | flag::ACK, 0);
        self.say(FromLocal, BOTH, 0);
    }

    /// Passes a packet with these numbers.
    fn pass(
        &self,
        direction: Direction,
        flags: u8,
        numbers: [u32; 2],
        payload: u32,
        stamps: [u32; 2],
    ) {
        let (local, remote) = vectors::ends(false);
        let (src, dst, sport, dport) = match direction {
            FromLocal => (local, remote, 41140, 5301),
            ToLocal => (remote, local, 5301, 41140),
        };
        let frame = Frame {
            flags,
            seq: numbers[0],
            ack: numbers[1],
            payload,
            timestamp: self.timed.then_some((stamps[0], stamps[1])),
            ..Frame::new(src, dst, sport, dport)
        };
        let arrival = Arrival {
            now_ns: self.now,
            link: Link::Ethernet,
            direction,
            ifindex: 7,
            vlan: 0,
            segments: 1,
            segment_size: 0,
        };
        self.model.packet(&frame.bytes(), &arrival);
    }

    /// Says what comes next.
    fn say(&mut self, direction: Direction, flags: u8, payload: u32) {
        self.now += MS;
        let (own, other) = (direction.index(), direction.reverse().index());
        let clock = (self.now / MS) as u32;
        let ack = if flags & flag::ACK == 0 {
            0
        } else {
            self.next[other]
        };
        self.pass(
            direction,
            flags,
            [self.next[own], ack],
            payload,
            [clock, clock - 1],
        );
        let takes = payload + u32::from(flags & (flag::SYN | flag::FIN) != 0);
        self.next[own] = self.next[own].wrapping_add(takes);
    }

    /// A request and its answer.
    fn ask(&mut self) {
        self.say(FromLocal, BOTH, 100);
        self.say(ToLocal, BOTH, 200);
        self.say(FromLocal, BOTH, 0);
    }

    fn samples(&self) -> usize {
        self.model.samples.borrow().len()
    }

    fn skipped(&self) -> u64 {
        self.model.counter(Counter::SkippedOutOfWindow)
    }
}

/// Numbers far from those of a conversation that begins at 1000 and 9000.
const FAR: u32 = 0x7000_0000;

#[test]
fn a_reset_with_a_wrong_number_and_a_syn_end_no_flow() {
    for timed in [false, true] {
        let mut talk = Talk::new([1000, 9000], timed);
        talk.ask();
        talk.pass(ToLocal, flag::RST, [FAR, 0], 0, [0, 0]);
        talk.pass(ToLocal, flag::SYN, [FAR, 0], 0, [0, 0]);
        talk.pass(ToLocal, flag::FIN | flag::ACK, [FAR, FAR], 0, [0, 0]);
        assert_eq!(talk.skipped(), 3);
        talk.ask();
        assert_eq!(talk.model.counter(Counter::FlowReset), 0);
        assert_eq!(talk.model.counter(Counter::FlowReopened), 0);
        assert_eq!(talk.model.counter(Counter::FlowResynced), 0);
        // The answer to data, with the very number that the other end expects.
        let next = talk.next[1];
        talk.pass(ToLocal, flag::RST, [next, 0], 0, [0, 0]);
        assert_eq!(talk.model.counter(Counter::FlowReset), 1);
    }
}

#[test]
fn a_reset_answers_a_syn_without_a_number_of_its_own() {
    let mut talk = Talk::new([1000, 9000], true);
    let reset = flag::RST | flag::ACK;
    talk.now += 60_000 * MS;
    talk.next = [500_000, 0];
    talk.say(FromLocal, flag::SYN, 0);
    talk.pass(ToLocal, reset, [0, FAR], 0, [0, 0]);
    assert_eq!(talk.model.counter(Counter::FlowReset), 0);
    talk.pass(ToLocal, reset, [0, 500_001], 0, [0, 0]);
    assert_eq!(talk.model.counter(Counter::FlowReset), 1);
}

#[test]
fn ports_used_again_are_measured_from_the_other_end_s_answer_on() {
    for timed in [false, true] {
        let mut talk = Talk::new([1000, 9000], timed);
        talk.ask();
        let before = talk.samples();
        // The first connection's end was not seen.
        talk.next = [FAR, FAR + 5_000_000];
        talk.open();
        assert_eq!(talk.model.counter(Counter::FlowResynced), 1);
        talk.ask();
        talk.ask();
        assert!(talk.samples() > before + 3, "{}", talk.samples() - before);
        assert_eq!(talk.skipped(), 1, "the SYN alone");
    }
}

#[test]
fn what_passed_unseen_is_no_end_of_measuring() {
    for timed in [false, true] {
        let mut talk = Talk::new([u32::MAX - 500, 9000], timed);
        talk.ask();
        // One direction went on by 3 GB, and round the end of its numbers.
        talk.next[0] = talk.next[0].wrapping_add(3_000_000_000);
        let before = talk.samples();
        for _ in 0..3 {
            talk.ask();
        }
        assert_eq!(talk.model.counter(Counter::FlowResynced), 1);
        assert!(talk.samples() >= before + 2, "{}", talk.samples() - before);
    }
}

#[test]
fn keep_alives_probes_and_retransmissions_are_believed() {
    let mut talk = Talk::new([u32::MAX - 50, 9000], true);
    talk.ask();
    let [own, other] = talk.next;
    let clock = (talk.now / MS) as u32;
    for seq in [own.wrapping_sub(1), own.wrapping_sub(100), own] {
        for payload in [0, 1] {
            talk.pass(FromLocal, BOTH, [seq, other], payload, [clock, clock]);
        }
    }
    // A keep-alive after two hours, and after a minute by a clock of microseconds.
    talk.now += 60_000 * MS;
    let stamps = [clock.wrapping_add(60_000_000), clock];
    talk.pass(FromLocal, BOTH, [own, other], 0, stamps);
    talk.now += 7_200_000 * MS;
    let stamps = [clock.wrapping_add(3_000_000_000), clock];
    talk.pass(FromLocal, BOTH, [own, other], 0, stamps);
    assert_eq!(talk.skipped(), 0);
}

#[test]
fn a_handshake_that_nobody_ends_is_half_open() {
    for methods in [
        Methods::DEFAULT,
        [crate::layout::Method::Ts].into_iter().collect(),
    ] {
        let mut talk = Talk::new([1000, 9000], true);
        talk.model.settings.methods = methods;
        // Each set is full of flows that were answered and never acknowledged.
        let open = |talk: &mut Talk, ifindex: u32, ends: bool| {
            let (local, remote) = vectors::ends(false);
            for (direction, flags) in [
                (FromLocal, flag::SYN),
                (ToLocal, flag::SYN | flag::ACK),
                (FromLocal, flag::ACK),
            ] {
                if flags == flag::ACK && !ends {
                    break;
                }
                let (src, dst, sport, dport) = match direction {
                    FromLocal => (local, remote, 41140, 5301),
                    ToLocal => (remote, local, 5301, 41140),
                };
                let syn = u32::from(flags & flag::SYN == 0);
                let frame = Frame {
                    flags,
                    seq: 1000 + syn,
                    ack: if flags & flag::ACK == 0 { 0 } else { 1001 },
                    ..Frame::new(src, dst, sport, dport)
                };
                let arrival = Arrival {
                    now_ns: talk.now,
                    link: Link::Ethernet,
                    direction,
                    ifindex,
                    vlan: 0,
                    segments: 1,
                    segment_size: 0,
                };
                talk.model.packet(&frame.bytes(), &arrival);
            }
        };
        for ifindex in 100..600 {
            open(&mut talk, ifindex, false);
        }
        assert_eq!(talk.model.counter(Counter::FlowsFull), 0);
        assert!(talk.model.counter(Counter::EvictedHalfOpen) > 400);
        talk.now += 10 * MS;
        for ifindex in 1000..1006 {
            open(&mut talk, ifindex, true);
        }
        assert_eq!(talk.model.counter(Counter::FlowsFull), 0);
    }
}

proptest! {
    /// A forger who does not see the flow, one packet before each true one.
    #[test]
    fn blind_acknowledgments_make_no_sample_and_cost_none(
        begin in any::<[u32; 2]>(),
        timed: bool,
        forged in prop::collection::vec(any::<(u32, u32, u32, u32)>(), 20..60),
    ) {
        let mut calm = Talk::new(begin, timed);
        let mut attacked = Talk::new(begin, timed);
        for (seq, ack, tsval, tsecr) in forged {
            // What is near by chance, one in 2^13, is no blind guess.
            let near = |number: u32, of: u32| number.wrapping_sub(of).wrapping_add(1 << 21) < 1 << 22;
            let seq = if near(seq, attacked.next[1]) { seq ^ 1 << 31 } else { seq };
            attacked.pass(ToLocal, BOTH, [seq, ack], 0, [tsval, tsecr]);
            calm.ask();
            attacked.ask();
            prop_assert_eq!(&*calm.model.samples.borrow(), &*attacked.model.samples.borrow());
        }
    }
}
