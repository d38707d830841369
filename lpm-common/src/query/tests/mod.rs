//! Queries and their answers through the host model.

mod again;
mod dns;
mod dns_tcp;
mod icmp;
mod packets;

use core::net::IpAddr;
use std::vec::Vec;

use proptest::prelude::*;

use crate::{
    counter::Counter,
    host::{Arrival, Model, Settings},
    layout::{DNS_UNANSWERED, Method, Methods},
    packet::Direction::{self, FromLocal, ToLocal},
    parse::Link,
    testing::{
        frame::Frame,
        query::{Message, echo},
        vectors,
    },
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
        test(Scene::new(v6, Methods::DEFAULT));
    }
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
        let mut scene = Scene::new(false, Methods::DEFAULT);
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
