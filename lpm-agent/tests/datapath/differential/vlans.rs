//! Conversations and questions whose directions bear different tags, now and then others than
//! before.

use std::cell::{Cell, RefCell};

use lpm_common::{
    counter::Counter,
    host::Model,
    layout::{Method, Methods},
    packet::Direction,
};
use proptest::{prelude::*, test_runner::TestRunner};

use super::{
    Pair, arrival,
    queries::any_question,
    sequence::{Talk, any_step},
    xdp::takes_metadata,
};

/// Tags of a frame, outer first: ethertype and id.
type Tags = Vec<(u16, u16)>;

fn any_tags() -> impl Strategy<Value = Tags> {
    prop_oneof![
        Just(Vec::new()),
        (30_u16..33).prop_map(|id| vec![(0x8100, id)]),
        (1_u16..3).prop_map(|id| vec![(0x88a8, id), (0x8100, 7)]),
    ]
}

/// The tags of each direction, and of a few packets by their number.
fn any_ways() -> impl Strategy<Value = ([Tags; 2], Vec<(usize, Tags)>)> {
    let strays = prop_oneof![
        3 => Just(Vec::new()),
        1 => prop::collection::vec((0_usize..40, any_tags()), 1..3),
    ];
    ([any_tags(), any_tags()], strays)
}

fn tags_of(ways: &([Tags; 2], Vec<(usize, Tags)>), i: usize, direction: Direction) -> Tags {
    let stray = ways.1.iter().find(|(at, _)| *at == i);
    let usual = &ways.0[direction.index()];
    stray.map_or(usual, |(_, tags)| tags).clone()
}

fn runner() -> TestRunner {
    TestRunner::new(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })
}

/// How often there was what these tests are about.
#[derive(Default)]
struct Seen {
    joined: Cell<u64>,
    ambiguous: Cell<u64>,
    samples: Cell<usize>,
}

impl Seen {
    fn add(&self, model: &Model, joined: Counter, ambiguous: Counter) {
        let add = |sum: &Cell<u64>, counter| sum.set(sum.get() + model.counter(counter));
        add(&self.joined, joined);
        add(&self.ambiguous, ambiguous);
        let samples = model.samples.borrow().len() + model.answers.borrow().len();
        self.samples.set(self.samples.get() + samples);
    }

    fn check(&self, ambiguous: u64) {
        let (joined, samples) = (self.joined.get(), self.samples.get());
        println!("{joined} joined, {} ambiguous", self.ambiguous.get());
        assert!(joined > 50 && samples > 100, "{joined} {samples}");
        assert!(self.ambiguous.get() >= ambiguous);
    }
}

fn conversations(methods: Methods, by_xdp: bool) {
    let Some(mut pair) = Pair::of_methods(methods) else {
        return;
    };
    if by_xdp && !takes_metadata(&mut pair) {
        return;
    }
    let (pair, seen) = (RefCell::new(pair), Seen::default());
    let talk = (any_ways(), prop::collection::vec(any_step(), 1..60));
    let outcome = runner().run(&talk, |(ways, steps)| {
        let mut pair = pair.borrow_mut();
        let model = pair.reset();
        let mut talk = Talk {
            next: [u32::MAX - 2000, 7],
            now_ns: 0,
            timestamps: true,
        };
        for (i, step) in steps.into_iter().enumerate() {
            let mut frame = talk.frame(step);
            let arrival = arrival(&frame, talk.now_ns);
            frame.tags = tags_of(&ways, i, arrival.direction);
            let bytes = frame.bytes();
            let taken = if by_xdp {
                pair.xdp_packet(&bytes, &arrival)
            } else {
                pair.packet(&bytes, &arrival)
            };
            assert!(taken);
            model.packet(&bytes, &arrival);
        }
        pair.assert_same(&model, "a conversation with tags");
        seen.add(&model, Counter::VlanFlowJoined, Counter::VlanFlowAmbiguous);
        Ok(())
    });
    outcome.unwrap();
    seen.check(10);
}

#[test]
fn conversations_with_tags_leave_the_same_state() {
    conversations(Methods::DEFAULT, false);
    let methods = [Method::Seq, Method::Handshake].into_iter().collect();
    conversations(methods, false);
}

#[test]
fn conversations_with_tags_by_xdp_leave_the_same_state() {
    conversations(Methods::DEFAULT, true);
}

#[test]
fn questions_with_tags_leave_the_same_state() {
    let Some(pair) = Pair::new() else { return };
    let (pair, seen) = (RefCell::new(pair), Seen::default());
    let questions = prop::collection::vec(any_question(), 1..60);
    let outcome = runner().run(&(any_ways(), questions), |(ways, packets)| {
        let mut pair = pair.borrow_mut();
        let model = pair.reset();
        let mut now = 0;
        for (i, (mut frame, direction, cut, gap)) in packets.into_iter().enumerate() {
            now += gap;
            if frame.ethernet {
                frame.tags = tags_of(&ways, i, direction);
            }
            let mut arrival = arrival(&frame, now);
            arrival.direction = direction;
            let bytes = frame.bytes();
            let bytes = &bytes[..bytes.len().min(cut)];
            if pair.packet(bytes, &arrival) {
                model.packet(bytes, &arrival);
            }
        }
        pair.assert_same(&model, "questions with tags");
        let counters = (Counter::VlanQuestionJoined, Counter::VlanQuestionAmbiguous);
        seen.add(&model, counters.0, counters.1);
        Ok(())
    });
    outcome.unwrap();
    seen.check(1);
}
