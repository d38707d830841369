//! Conversations whose directions bear different tags, through the host model.

mod queries;

use std::vec::Vec;

use crate::{
    counter::Counter,
    env::Claims,
    host::{Arrival, Model, Settings},
    layout::{Method, Methods},
    packet::Direction::{self, FromLocal, ToLocal},
    parse::Link,
    table,
    testing::{frame::Frame, vectors},
};

const MS: u64 = 1_000_000;

/// Tags of a frame, outer first.
type Tags = &'static [(u16, u16)];

const NONE: Tags = &[];

/// Tags of both directions, by name.
const WAYS: [(&str, Tags, Tags); 6] = [
    ("two ids", &[(0x8100, 30)], &[(0x8100, 40)]),
    ("tagged from the local end", &[(0x8100, 3136)], NONE),
    ("tagged to the local end", NONE, &[(0x8100, 3136)]),
    (
        "QinQ, outer differs",
        &[(0x88a8, 1042), (0x8100, 120)],
        &[(0x88a8, 1041), (0x8100, 120)],
    ),
    (
        "QinQ, inner differs",
        &[(0x88a8, 7), (0x8100, 1)],
        &[(0x88a8, 7), (0x8100, 4094)],
    ),
    (
        "QinQ and one tag",
        &[(0x9100, 7), (0x8100, 1)],
        &[(0x8100, 1)],
    ),
];

struct Scene {
    model: Model,
    v6: bool,
    /// The outer tag is the metadata's.
    beside: bool,
    now: u64,
    methods: Methods,
    port: u16,
}

impl Scene {
    fn new(v6: bool, beside: bool, methods: Methods) -> Self {
        Self {
            model: Model::new(Settings {
                flow_entries: 64,
                query_entries: 16,
                rows: 8,
                seeds: core::array::from_fn(|i| 0x9e37_79b9_u32.wrapping_mul(i as u32 + 1)),
                hz: 250,
                idle_seconds: 60,
                methods,
            }),
            v6,
            beside,
            now: 1000 * MS,
            methods,
            port: 40_000,
        }
    }

    fn frame(&self, direction: Direction) -> Frame {
        let (local, remote) = vectors::ends(self.v6);
        match direction {
            FromLocal => Frame::new(local, remote, self.port, 80),
            ToLocal => Frame::new(remote, local, 80, self.port),
        }
    }

    fn pass(&self, direction: Direction, tags: Tags, mut frame: Frame) {
        let mut tags = tags.to_vec();
        let vlan = if self.beside && !tags.is_empty() {
            u32::from(tags.remove(0).1)
        } else {
            0
        };
        frame.tags = tags;
        let arrival = Arrival {
            now_ns: self.now,
            link: Link::Ethernet,
            direction,
            ifindex: 7,
            vlan,
            segments: 1,
            segment_size: 0,
        };
        self.model.packet(&frame.bytes(), &arrival);
    }

    /// A segment: its sequence numbers, flags, payload, timestamps.
    fn segment(
        &self,
        direction: Direction,
        tags: Tags,
        (seq, ack, flags, payload): (u32, u32, u8, u32),
        timestamp: (u32, u32),
    ) {
        let mut frame = self.frame(direction);
        (frame.seq, frame.ack, frame.flags, frame.payload) = (seq, ack, flags, payload);
        frame.timestamp = self.methods.has(Method::Ts).then_some(timestamp);
        self.pass(direction, tags, frame);
    }

    fn wait(&mut self, ms: u64) {
        self.now += ms * MS;
    }

    fn handshake(&mut self, there: Tags, back: Tags, rtt: u64) {
        self.segment(FromLocal, there, (1000, 0, 0x02, 0), (100, 0));
        self.wait(rtt);
        self.segment(ToLocal, back, (5000, 1001, 0x12, 0), (9000, 100));
        self.segment(FromLocal, there, (1001, 5001, 0x10, 0), (101, 9000));
    }

    /// A request and its acknowledgment, number `i` of them.
    fn request(&mut self, there: Tags, back: Tags, i: u32, rtt: u64) {
        self.wait(20);
        let (tick, seq) = (200 + 20 * i, 1001 + 100 * i);
        self.segment(FromLocal, there, (seq, 5001, 0x18, 100), (tick, 9000 + i));
        self.wait(rtt);
        self.segment(ToLocal, back, (5001, seq + 100, 0x10, 0), (9001 + i, tick));
    }

    fn talk(&mut self, there: Tags, back: Tags) {
        self.handshake(there, back, 5);
        for i in 0..3 {
            self.request(there, back, i, 5);
        }
    }

    /// Samples by method and leg, in milliseconds, rounded.
    fn samples(&self) -> Vec<(u8, u8, u64)> {
        let samples = self.model.samples.take();
        let ms = |units: u32| (u64::from(units) * 64 + MS / 2) / MS;
        samples
            .iter()
            .map(|sample| (sample.method, sample.leg, ms(sample.units)))
            .collect()
    }

    fn counted(&self, counter: Counter) -> u64 {
        self.model.counter(counter)
    }
}

/// Runs a test with IPv4 and IPv6, with the outer tag in the frame and beside
/// it, and by timestamps and by sequence numbers.
fn each(test: impl Fn(Scene)) {
    let seq = [Method::Seq, Method::Handshake].into_iter().collect();
    for v6 in [false, true] {
        for beside in [false, true] {
            for methods in [Methods::DEFAULT, seq] {
                test(Scene::new(v6, beside, methods));
            }
        }
    }
}

#[test]
fn directions_in_different_vlans_are_measured_as_one() {
    for (what, there, back) in WAYS {
        each(|mut plain| {
            plain.talk(NONE, NONE);
            let right = plain.samples();
            assert!(
                right.iter().filter(|sample| sample.2 == 5).count() >= 4,
                "{right:?}"
            );
            let mut scene = Scene::new(plain.v6, plain.beside, plain.methods);
            scene.talk(there, back);
            assert_eq!(scene.samples(), right, "{what}");
            assert_eq!(scene.counted(Counter::VlanFlowJoined), 1, "{what}");
            assert_eq!(scene.counted(Counter::VlanFlowAmbiguous), 0, "{what}");
            assert_eq!(scene.counted(Counter::FlowOpened), 1, "{what}");
            assert_eq!(scene.counted(Counter::FlowJoined), 0, "{what}");
        });
    }
}

#[test]
fn they_are_from_the_middle_of_a_connection_on_whichever_is_seen_first() {
    for (what, there, back) in WAYS {
        for back_first in [false, true] {
            each(|mut scene| {
                if back_first {
                    scene.segment(ToLocal, back, (5001, 1001, 0x10, 0), (9000, 199));
                }
                for i in 0..4 {
                    scene.request(there, back, i, 5);
                }
                let fives = scene
                    .samples()
                    .iter()
                    .filter(|s| s.1 == 0 && s.2 == 5)
                    .count();
                assert!(fives >= 3, "{what}: {fives}");
                assert_eq!(scene.counted(Counter::VlanFlowJoined), 1, "{what}");
            });
        }
    }
}

#[test]
fn a_connection_that_uses_the_ports_again_starts_anew() {
    for (what, there, back) in WAYS {
        each(|mut scene| {
            scene.talk(there, back);
            let right = scene.samples();
            scene.segment(FromLocal, there, (1301, 5001, 0x11, 0), (300, 9005));
            scene.segment(ToLocal, back, (5001, 1302, 0x11, 0), (9006, 300));
            scene.samples();
            scene.wait(1000);
            scene.talk(there, back);
            assert_eq!(scene.samples(), right, "{what}");
            assert_eq!(scene.counted(Counter::FlowReopened), 1, "{what}");
            // And in another pair of VLANs.
            scene.segment(FromLocal, there, (1301, 5001, 0x14, 0), (300, 9005));
            scene.wait(1000);
            scene.talk(&[(0x8100, 77)], &[(0x8100, 78)]);
            assert_eq!(scene.samples(), right, "{what}");
            assert_eq!(scene.counted(Counter::VlanFlowAmbiguous), 0, "{what}");
        });
    }
}

/// Flows between the same ends in two VLANs, packet by packet.
fn two_talks(scene: &mut Scene, tags: [Tags; 2], count: u32) {
    for direction in [FromLocal, ToLocal] {
        for (tags, rtt) in tags.iter().zip([5, 3]) {
            if direction == FromLocal {
                scene.segment(FromLocal, tags, (1000, 0, 0x02, 0), (100, 0));
            } else {
                scene.wait(rtt);
                scene.segment(ToLocal, tags, (5000, 1001, 0x12, 0), (9000, 100));
            }
        }
    }
    for i in 0..count {
        scene.wait(20);
        let (tick, seq) = (200 + 20 * i, 1001 + 100 * i);
        for tags in tags {
            scene.segment(FromLocal, tags, (seq, 5001, 0x18, 100), (tick, 9000 + i));
        }
        for (tags, rtt) in tags.iter().zip([5, 3]) {
            scene.wait(rtt);
            let ack = (5001, seq + 100, 0x10, 0);
            scene.segment(ToLocal, tags, ack, (9001 + i, tick));
        }
    }
}

#[test]
fn flows_that_each_vlan_shows_whole_stay_apart() {
    for tags in [
        [&[(0x8100, 300)][..], &[(0x8100, 50)][..]],
        [NONE, &[(0x8100, 50)][..]],
        [&[(0x8100, 50)][..], NONE],
        [&[(0x8100, 5), (0x8100, 6)][..], &[(0x8100, 6)][..]],
    ] {
        each(|mut scene| {
            two_talks(&mut scene, tags, 3);
            let remote: Vec<u64> = scene
                .samples()
                .iter()
                .filter(|s| s.1 == 0)
                .map(|s| s.2)
                .collect();
            // The second one's answers come 3 ms after the first one's.
            assert_eq!(remote, [5, 8].repeat(4), "{tags:?}");
            assert_eq!(scene.counted(Counter::VlanFlowJoined), 0, "{tags:?}");
            assert_eq!(scene.counted(Counter::VlanFlowAmbiguous), 0, "{tags:?}");
        });
    }
}

#[test]
fn a_vlan_that_shows_both_directions_after_all_parts_them() {
    let cases: [(Tags, Direction); 3] = [
        (&[(0x8100, 30)], ToLocal),
        (&[(0x8100, 40)], FromLocal),
        (&[(0x8100, 50)], FromLocal),
    ];
    for (tags, direction) in cases {
        each(|mut scene| {
            let (there, back): (Tags, Tags) = (&[(0x8100, 30)], &[(0x8100, 40)]);
            scene.talk(there, back);
            scene.samples();
            scene.wait(20);
            scene.segment(FromLocal, there, (1301, 5001, 0x18, 100), (300, 9003));
            // Had it been taken for the answer, it would make a sample.
            let head = match direction {
                FromLocal => (1301, 5001, 0x18, 100),
                ToLocal => (5001, 1401, 0x10, 0),
            };
            scene.segment(direction, tags, head, (300, 300));
            scene.wait(7);
            scene.segment(ToLocal, back, (5001, 1401, 0x10, 0), (9010, 300));
            for i in 5..8 {
                scene.request(there, back, i, 5);
            }
            assert_eq!(scene.samples(), [], "{tags:?} {direction:?}");
            // Once when they are parted, and when each way is a flow by itself.
            assert!(scene.counted(Counter::VlanFlowAmbiguous) >= 1);
            assert_eq!(
                scene
                    .model
                    .control
                    .doubtful
                    .load(core::sync::atomic::Ordering::Relaxed),
                7
            );
            // The next connection is judged anew.
            scene.port += 1;
            scene.talk(there, back);
            assert!(scene.samples().len() >= 4);
        });
    }
}

#[test]
fn what_does_not_answer_what_was_seen_is_not_joined() {
    let wrong_ack = |scene: &Scene, back| {
        scene.segment(ToLocal, back, (5000, 77_001_001, 0x12, 0), (9000, 100));
    };
    let not_acknowledging = |scene: &Scene, back| {
        scene.segment(ToLocal, back, (5000, 0, 0x02, 0), (9000, 0));
    };
    let middle = |scene: &Scene, back| {
        scene.segment(ToLocal, back, (5000, 900_000_000, 0x10, 0), (9000, 100));
    };
    // No SYN-ACK acknowledges more than the SYN and what came with it.
    let more = |scene: &Scene, back| {
        scene.segment(ToLocal, back, (5000, 2_001, 0x12, 0), (9000, 100));
    };
    for other in [wrong_ack, not_acknowledging, middle, more] {
        each(|mut scene| {
            scene.segment(FromLocal, &[(0x8100, 30)], (1000, 0, 0x02, 0), (100, 0));
            scene.wait(5);
            other(&scene, &[(0x8100, 40)]);
            assert_eq!(scene.samples(), []);
            assert_eq!(scene.counted(Counter::VlanFlowJoined), 0);
            assert_eq!(scene.counted(Counter::VlanFlowAmbiguous), 1);
            // Its own VLAN's is.
            scene.segment(ToLocal, &[(0x8100, 30)], (5000, 1001, 0x12, 0), (9000, 100));
            assert_eq!(scene.samples().len(), 1);
        });
    }
}

#[test]
fn more_vlans_than_one_for_each_direction_are_said_and_not_joined() {
    each(|mut scene| {
        for i in 0..5 {
            let there = if i % 2 == 0 {
                &[(0x8100, 30)][..]
            } else {
                &[(0x8100, 31)]
            };
            scene.request(there, &[(0x8100, 40)], i, 5);
        }
        // From the second of them on nobody knows.
        assert!(scene.samples().len() <= 1);
        assert!(scene.counted(Counter::VlanFlowAmbiguous) >= 1);
    });
}

#[test]
fn of_two_vlans_with_one_direction_neither_is_joined_to_a_third() {
    each(|scene| {
        for there in [&[(0x8100, 30)][..], &[(0x8100, 31)]] {
            scene.segment(FromLocal, there, (1000, 0, 0x02, 0), (100, 0));
        }
        let back: Tags = &[(0x8100, 40)];
        scene.segment(ToLocal, back, (5000, 1001, 0x12, 0), (9000, 100));
        assert_eq!(scene.samples(), []);
        assert_eq!(scene.counted(Counter::VlanFlowJoined), 0);
        assert_eq!(scene.counted(Counter::VlanFlowAmbiguous), 1);
    });
}

#[test]
fn a_pair_that_was_forgotten_is_found_again() {
    for (what, there, back) in WAYS {
        each(|mut scene| {
            scene.talk(there, back);
            scene.samples();
            scene.model.vlan_pairs.borrow_mut().clear();
            for i in 3..7 {
                scene.request(there, back, i, 5);
            }
            let samples = scene.samples();
            assert!(
                samples.len() >= 3 && samples.iter().all(|s| s.2 == 5),
                "{what}: {samples:?}"
            );
            assert_eq!(scene.counted(Counter::VlanFlowAmbiguous), 0, "{what}");
            let live = |entry: &&crate::layout::FlowEntry| {
                entry
                    .fingerprint
                    .load(core::sync::atomic::Ordering::Relaxed)
                    != 0
            };
            assert_eq!(scene.model.flows.iter().filter(live).count(), 1, "{what}");
        });
    }
}

#[test]
fn without_tags_nothing_is_looked_for() {
    each(|mut scene| {
        scene.talk(NONE, NONE);
        assert!(scene.model.vlan_pairs.borrow().is_empty());
    });
}

#[test]
fn flows_inside_tunnels_keep_their_numbers() {
    use crate::layout::{TunnelKind, tunnel::segment_of};
    let scene = Scene::new(false, false, Methods::DEFAULT);
    let packet = crate::parse::Packet {
        segment: segment_of(TunnelKind::Vxlan as u32, 5, 0),
        ..crate::parse::Packet::default()
    };
    let model = &scene.model;
    let placed = super::place(&packet, 9, (7, FromLocal), model, model);
    assert_eq!((placed.fingerprint, placed.is_new_flow), (9, true));
    assert!(scene.model.vlan_pairs.borrow().is_empty());
}

/// Another flow with the same ports, whose acknowledgments happen to be near:
/// its echoes are those of another clock.
#[test]
fn an_echo_of_another_clock_is_no_answer() {
    for (echo, joined) in [(200, 1), (200 + (1 << 30), 0)] {
        each(|mut scene| {
            if !scene.methods.has(Method::Ts) {
                return;
            }
            scene.segment(
                FromLocal,
                &[(0x8100, 30)],
                (1001, 5001, 0x18, 100),
                (200, 9000),
            );
            scene.wait(5);
            scene.segment(
                ToLocal,
                &[(0x8100, 40)],
                (5001, 1101, 0x10, 0),
                (9001, echo),
            );
            assert_eq!(scene.counted(Counter::VlanFlowJoined), joined, "{echo}");
        });
    }
}

/// Claims of a set in which another CPU works.
struct Taken;

impl Claims for Taken {
    fn claim(&self, _name: u32) -> bool {
        false
    }

    fn release(&self, _name: u32) {
        panic!("it was not ours");
    }
}

#[test]
fn nothing_is_moved_without_the_claim() {
    each(|scene| {
        let model = &scene.model;
        assert!(!table::rename(model, &Taken, model, (1, 2), FromLocal));
        assert_eq!(scene.counted(Counter::FlowsBusy), 1);
    });
}
