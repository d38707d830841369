//! Questions and answers through the host model.

use core::net::IpAddr;
use std::{vec, vec::Vec};

use proptest::prelude::*;

use crate::{
    counter::Counter,
    layout::{DNS_UNANSWERED, Leg, Method, Methods, PairKey, Rcode},
    model::{
        Arrival, Model, Settings,
        frame::Frame,
        question::{Message, echo},
        vectors,
    },
    packet::Direction::{self, FromLocal, ToLocal},
    parse::Link,
};

const MS: u64 = 1_000_000;
const S: u64 = 1000 * MS;

/// A model and its clock.
struct Scene {
    model: Model,
    local: IpAddr,
    remote: IpAddr,
    now: u64,
}

impl Scene {
    fn new(v6: bool, methods: Methods) -> Self {
        let (local, remote) = vectors::ends(v6);
        let model = Model::new(Settings {
            flow_entries: 64,
            query_entries: 16,
            rows: 8,
            seeds: core::array::from_fn(|i| 0x9e37_79b9_u32.wrapping_mul(i as u32 + 1)),
            hz: 250,
            idle_seconds: 60,
            methods,
        });
        Self {
            model,
            local,
            remote,
            now: S,
        }
    }

    fn at(&self, direction: Direction) -> Arrival {
        Arrival {
            now_ns: self.now,
            link: Link::Ethernet,
            direction,
            ifindex: 7,
            vlan: 0,
            segments: 1,
            segment_size: 0,
        }
    }

    fn pass(&mut self, after: u64, direction: Direction, frame: &Frame) {
        self.now += after;
        self.model.packet(&frame.bytes(), &self.at(direction));
    }

    fn query(&mut self, after: u64, id: u16) {
        let frame = Message::query(id).udp(self.local, self.remote, 40_000, 53);
        self.pass(after, FromLocal, &frame);
    }

    fn answer(&mut self, after: u64, id: u16, rcode: u16) {
        let frame = Message::answer(id, rcode).udp(self.remote, self.local, 53, 40_000);
        self.pass(after, ToLocal, &frame);
    }

    fn rtts(&self) -> Vec<u64> {
        let answers = self.model.answers.borrow();
        answers.iter().map(|answer| answer.rtt_ns).collect()
    }

    fn counted(&self, counter: Counter) -> u64 {
        self.model.counter(counter)
    }

    /// The counts of a row's place, all buckets.
    fn place(&self, row: usize, place: u8) -> u64 {
        let histograms = self.model.histograms.borrow();
        histograms[row * 8 + usize::from(place)][..255].iter().sum()
    }
}

fn both(test: impl Fn(Scene)) {
    for v6 in [false, true] {
        test(Scene::new(v6, Methods::ALL));
    }
}

#[test]
fn an_echo_is_measured_at_both_ends() {
    both(|mut scene| {
        let (local, remote) = (scene.local, scene.remote);
        scene.pass(0, FromLocal, &echo(local, remote, false, 5, 1));
        // The other end pings at the same time, with the same numbers.
        scene.pass(MS, ToLocal, &echo(remote, local, false, 5, 1));
        scene.pass(2 * MS, FromLocal, &echo(local, remote, true, 5, 1));
        scene.pass(4 * MS, ToLocal, &echo(remote, local, true, 5, 1));
        assert_eq!(scene.rtts(), [2 * MS, 7 * MS]);
        let heads: Vec<_> = scene
            .model
            .answers
            .borrow()
            .iter()
            .map(|a| a.query.head)
            .collect();
        assert_eq!(heads[0].leg, Leg::Local as u8);
        assert_eq!(heads[1].leg, Leg::Remote as u8);
        assert_eq!(heads[1].id, 1 << 16 | 5);
        assert_eq!((scene.place(1, 0), scene.place(1, 4)), (1, 1));
        assert_eq!(scene.counted(Counter::SkippedNotTcp), 0);
    });
}

#[test]
fn only_the_first_reply_counts() {
    both(|mut scene| {
        let (local, remote) = (scene.local, scene.remote);
        scene.pass(0, FromLocal, &echo(local, remote, false, 5, 1));
        for (id, sequence) in [(6, 1), (5, 2)] {
            scene.pass(MS, ToLocal, &echo(remote, local, true, id, sequence));
        }
        assert_eq!(scene.counted(Counter::IcmpUnasked), 2);
        for _ in 0..3 {
            scene.pass(MS, ToLocal, &echo(remote, local, true, 5, 1));
        }
        assert_eq!(scene.rtts(), [3 * MS]);
        assert_eq!(scene.counted(Counter::IcmpDuplicate), 2);
        // The number comes round again: another question.
        scene.pass(S, FromLocal, &echo(local, remote, false, 5, 1));
        scene.pass(MS, ToLocal, &echo(remote, local, true, 5, 1));
        assert_eq!(scene.rtts(), [3 * MS, MS]);
        assert_eq!(scene.counted(Counter::IcmpRepeated), 0);
    });
}

#[test]
fn an_error_that_quotes_an_echo_is_no_answer() {
    both(|mut scene| {
        let (local, remote) = (scene.local, scene.remote);
        let request = echo(local, remote, false, 5, 1);
        scene.pass(0, FromLocal, &request);
        let mut error = echo(remote, local, true, 5, 1);
        let (protocol, bytes) = error.other.as_mut().unwrap();
        bytes[0] = if *protocol == 1 { 3 } else { 1 };
        bytes.truncate(8);
        let quoted = request.bytes();
        bytes.extend(&quoted[14..]);
        scene.pass(MS, ToLocal, &error);
        // In a layout that is not common, too.
        if local.is_ipv4() {
            error.ip_options = vec![1; 4];
        } else {
            error.extensions = vec![(60, vec![0; 8])];
        }
        scene.pass(MS, ToLocal, &error);
        // Nor is a code that no echo has.
        let mut code = echo(remote, local, true, 5, 1);
        code.other.as_mut().unwrap().1[1] = 1;
        scene.pass(MS, ToLocal, &code);
        assert_eq!(scene.rtts(), [0; 0]);
        assert_eq!(scene.counted(Counter::SkippedNotTcp), 3);
    });
}

#[test]
fn a_query_is_measured_by_response_code() {
    both(|mut scene| {
        for rcode in 0..16 {
            scene.query(S, rcode);
            scene.answer(3 * MS, rcode, rcode);
        }
        assert_eq!(scene.rtts(), [3 * MS; 16]);
        for rcode in Rcode::ALL {
            let expected = if rcode == Rcode::Other { 10 } else { 1 };
            assert_eq!(scene.place(1, rcode as u8), expected, "{rcode:?}");
        }
        let pairs: Vec<u64> = scene.model.pairs.borrow().keys().copied().collect();
        assert_eq!(pairs.len(), 1, "a row per namespace, whoever answers");
        assert_eq!(PairKey(pairs[0]).family(), Some(crate::layout::Family::Dns));
    });
}

#[test]
fn a_repeated_query_is_answered_but_no_sample() {
    both(|mut scene| {
        scene.query(0, 9);
        scene.query(S, 9);
        scene.answer(MS, 9, 0);
        scene.answer(MS, 9, 0);
        assert_eq!(scene.rtts(), [0; 0]);
        assert_eq!(scene.counted(Counter::DnsRepeated), 1);
        assert_eq!(scene.counted(Counter::DnsAmbiguous), 1);
        assert_eq!(scene.counted(Counter::DnsDuplicate), 1);
        // At once again: the second answer may still be on its way.
        scene.query(MS, 9);
        scene.answer(MS, 9, 0);
        assert_eq!(scene.counted(Counter::DnsAmbiguous), 2);
        // Another port is another question.
        let frame = Message::query(9).udp(scene.local, scene.remote, 40_001, 53);
        scene.pass(MS, FromLocal, &frame);
        scene.answer(MS, 9, 0);
        assert_eq!(scene.rtts(), [0; 0]);
        assert_eq!(scene.counted(Counter::DnsDuplicate), 2);
    });
}

#[test]
fn a_late_answer_is_no_sample() {
    both(|mut scene| {
        scene.query(0, 9);
        scene.answer(5 * S + 1, 9, 0);
        assert_eq!(scene.counted(Counter::DnsLate), 1);
        // The resolver's second attempt: the first one went unanswered, and
        // which one the next answer belongs to, nobody knows.
        scene.query(MS, 9);
        assert_eq!(scene.place(1, DNS_UNANSWERED), 1);
        scene.answer(MS, 9, 0);
        assert_eq!(scene.rtts(), [0; 0]);
        assert_eq!(scene.counted(Counter::DnsAmbiguous), 1);
        // In time to the nanosecond.
        scene.query(60 * S, 10);
        scene.answer(5 * S, 10, 0);
        assert_eq!(scene.rtts(), [5 * S]);
    });
}

#[test]
fn entries_are_given_to_new_questions_only_when_their_time_is_up() {
    both(|mut scene| {
        for id in 0..100 {
            scene.query(MS, id);
        }
        // 16 entries in sets of 4: at least one set has overflowed.
        let full = scene.counted(Counter::QueriesFull);
        assert!((84..100).contains(&full), "{full}");
        let kept = 100 - full;
        for id in 0..100 {
            scene.answer(0, id, 0);
        }
        assert_eq!(scene.rtts().len() as u64, kept);
        assert_eq!(scene.counted(Counter::DnsUnasked), full);
        for id in 100..200 {
            scene.query(MS, id);
        }
        let full_again = scene.counted(Counter::QueriesFull) - full;
        assert!((84..100).contains(&full_again), "answered ones gave way");
        assert_eq!(scene.place(1, DNS_UNANSWERED), 0);
        for id in 200..300 {
            scene.query(if id == 200 { 6 * S } else { MS }, id);
        }
        let given_up = scene.place(1, DNS_UNANSWERED);
        assert!((1..=100 - full_again).contains(&given_up), "{given_up}");
    });
}

#[test]
fn malformed_messages_are_counted() {
    both(|mut scene| {
        let (local, remote) = (scene.local, scene.remote);
        let to_server = |message: &Message| message.udp(local, remote, 40_000, 53);
        let no_question = Message {
            counts: [0, 0, 0, 0],
            ..Message::query(1)
        };
        let absent_question = Message {
            tail: vec![0; 4],
            ..Message::query(1)
        };
        let mut short = to_server(&Message::query(1));
        let mut beyond = to_server(&Message::query(1));
        // The UDP length: shorter than a header, longer than the packet.
        short.other.as_mut().unwrap().1[4..6].copy_from_slice(&19_u16.to_be_bytes());
        beyond.other.as_mut().unwrap().1[4..6].copy_from_slice(&999_u16.to_be_bytes());
        for frame in [
            to_server(&no_question),
            to_server(&absent_question),
            short,
            beyond,
        ] {
            scene.pass(MS, FromLocal, &frame);
        }
        assert_eq!(scene.counted(Counter::DnsMalformed), 4);
        let update = Message {
            flags: 5 << 11,
            ..Message::query(1)
        };
        scene.pass(MS, FromLocal, &to_server(&update));
        assert_eq!(scene.counted(Counter::DnsOpcode), 1);
        // Counts that lie, and a name that loops, change nothing.
        let lies = Message {
            counts: [0xffff; 4],
            tail: vec![0xc0, 12, 0xc0, 12, 0xff, 0xff],
            ..Message::query(2)
        };
        scene.pass(0, FromLocal, &to_server(&lies));
        let bare = Message {
            counts: [0; 4],
            tail: vec![],
            ..Message::answer(2, 1)
        };
        scene.pass(MS, ToLocal, &bare.udp(remote, local, 53, 40_000));
        assert_eq!(scene.rtts(), [MS]);
        assert_eq!(scene.place(1, Rcode::FormErr as u8), 1);
    });
}

#[test]
fn servers_and_other_ports_are_not_the_asking_end() {
    both(|mut scene| {
        let (local, remote) = (scene.local, scene.remote);
        // The local end is a server.
        scene.pass(
            0,
            ToLocal,
            &Message::query(1).udp(remote, local, 40_000, 53),
        );
        scene.pass(
            MS,
            FromLocal,
            &Message::answer(1, 0).udp(local, remote, 53, 40_000),
        );
        // Multicast DNS.
        scene.pass(
            0,
            FromLocal,
            &Message::query(1).udp(local, remote, 5353, 5353),
        );
        // A server that asks another from its own port 53, and answers it.
        scene.pass(
            0,
            FromLocal,
            &Message::answer(1, 0).udp(local, remote, 53, 53),
        );
        scene.pass(0, FromLocal, &Message::query(3).udp(local, remote, 53, 53));
        scene.pass(
            MS,
            ToLocal,
            &Message::answer(3, 0).udp(remote, local, 53, 53),
        );
        assert_eq!(scene.rtts(), [MS]);
        assert_eq!(scene.counted(Counter::SkippedNotTcp), 4);
    });
}

#[test]
fn over_tcp_the_first_message_of_a_segment_counts() {
    both(|mut scene| {
        let (local, remote) = (scene.local, scene.remote);
        let ask = |all: &[Message]| Message::tcp(all, local, remote, 40_000, 53);
        let tell = |all: &[Message]| Message::tcp(all, remote, local, 53, 40_000);
        scene.pass(0, FromLocal, &ask(&[Message::query(1), Message::query(2)]));
        scene.pass(
            2 * MS,
            ToLocal,
            &tell(&[Message::answer(1, 3), Message::answer(2, 0)]),
        );
        assert_eq!(scene.rtts(), [2 * MS]);
        assert_eq!(scene.counted(Counter::DnsFurther), 2);
        // The same id over UDP is another question.
        scene.answer(MS, 1, 0);
        assert_eq!(scene.counted(Counter::DnsUnasked), 1);
        // A long answer begins in one segment and goes on in others.
        scene.pass(MS, FromLocal, &ask(&[Message::query(7)]));
        let mut long = Message::answer(7, 0);
        long.tail = vec![0x55; 3000];
        let mut first = tell(&[long]);
        let rest = first.data.split_off(1000);
        first.payload = 1000;
        scene.pass(4 * MS, ToLocal, &first);
        let mut second = tell(&[]);
        (second.payload, second.data) = (rest.len() as u32, rest);
        scene.pass(MS, ToLocal, &second);
        assert_eq!(scene.rtts(), [2 * MS, 4 * MS]);
        assert_eq!(scene.counted(Counter::DnsNoMessage), 1);
        // The length in a segment of its own, then the message.
        let mut whole = ask(&[Message::query(8)]);
        let rest = whole.data.split_off(2);
        whole.payload = 2;
        scene.pass(MS, FromLocal, &whole);
        (whole.payload, whole.data) = (rest.len() as u32, rest);
        scene.pass(MS, FromLocal, &whole);
        assert_eq!(scene.counted(Counter::DnsNoMessage), 3);
        // A query that goes on in another segment: its end is not known to be one.
        let mut cut = ask(&[Message::query(9)]);
        cut.data.truncate(20);
        cut.payload = 20;
        scene.pass(MS, FromLocal, &cut);
        assert_eq!(scene.counted(Counter::DnsNoMessage), 4);
        // Bare acknowledgements are nothing, and the flow is counted as ever.
        scene.pass(MS, FromLocal, &ask(&[]));
        assert_eq!(scene.counted(Counter::DnsNoMessage), 4);
        assert_eq!(scene.counted(Counter::FlowJoined), 1);
    });
}

#[test]
fn over_tcp_nothing_counts_as_unanswered() {
    both(|mut scene| {
        let ask = |id| Message::tcp(&[Message::query(id)], scene.local, scene.remote, 40_000, 53);
        let frames: Vec<_> = (0..100).map(ask).collect();
        for frame in &frames {
            scene.pass(6 * S, FromLocal, frame);
        }
        assert_eq!(scene.place(1, DNS_UNANSWERED), 0);
        assert_eq!(scene.counted(Counter::QueriesFull), 0);
    });
}

#[test]
fn what_is_off_is_skipped() {
    let tcp = [Method::Ts].into_iter().collect();
    for v6 in [false, true] {
        let mut scene = Scene::new(v6, tcp);
        let (local, remote) = (scene.local, scene.remote);
        scene.pass(0, FromLocal, &echo(local, remote, false, 5, 1));
        scene.query(0, 1);
        scene.pass(
            0,
            FromLocal,
            &Message::tcp(&[Message::query(1)], local, remote, 4, 53),
        );
        assert_eq!(scene.counted(Counter::SkippedNotTcp), 2);
        let used = |entry: &crate::layout::QueryEntry| {
            entry
                .fingerprint
                .load(core::sync::atomic::Ordering::Relaxed)
                != 0
        };
        assert!(!scene.model.queries.iter().any(used));
    }
}

#[test]
fn cut_at_every_byte_it_is_whole_or_skipped() {
    both(|mut scene| {
        let (local, remote) = (scene.local, scene.remote);
        let frames = [
            echo(local, remote, false, 5, 1),
            Message::query(1).udp(local, remote, 40_000, 53),
            Message::tcp(&[Message::query(1)], local, remote, 40_000, 53),
        ];
        for frame in frames {
            let bytes = frame.bytes();
            for length in 0..bytes.len() {
                scene.now += 100 * S;
                scene.model.packet(&bytes[..length], &scene.at(FromLocal));
            }
        }
        let asked = |entry: &crate::layout::QueryEntry| {
            entry
                .fingerprint
                .load(core::sync::atomic::Ordering::Relaxed)
                != 0
        };
        assert!(!scene.model.queries.iter().any(asked));
    });
}

proptest! {
    #[test]
    fn whatever_comes_no_time_is_wrong(
        packets in prop::collection::vec((0_u8..6, 0_u16..3, 0..2 * S), 1..200),
        noise in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut scene = Scene::new(false, Methods::ALL);
        let (local, remote) = (scene.local, scene.remote);
        for (kind, id, after) in packets {
            let before = scene.now;
            let frame = match kind {
                0 => Message::query(id).udp(local, remote, 40_000, 53),
                1 => Message::answer(id, 0).udp(remote, local, 53, 40_000),
                2 => echo(local, remote, false, id, 0),
                3 => echo(remote, local, true, id, 0),
                4 => Message { tail: noise.clone(), ..Message::query(id) }.udp(local, remote, 40_000, 53),
                _ => {
                    let mut frame = Message::query(id).udp(local, remote, 40_000, 53);
                    let bytes = &mut frame.other.as_mut().unwrap().1;
                    for (byte, noise) in bytes[8..].iter_mut().zip(&noise) {
                        *byte = *noise;
                    }
                    frame
                }
            };
            let direction = if matches!(kind, 1 | 3) { ToLocal } else { FromLocal };
            scene.pass(after, direction, &frame);
            for answer in scene.model.answers.take() {
                let limit = crate::layout::timeout_ns(answer.query.head.method);
                prop_assert!(answer.rtt_ns <= limit && answer.rtt_ns >= scene.now - before);
                prop_assert_eq!(answer.now_ns, scene.now);
            }
        }
    }
}
