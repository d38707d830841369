//! Queries that are sent again with the same number, compared with a plain list
//! of the transmissions that wait for an answer.

use std::{format, vec::Vec};

use proptest::prelude::*;

use super::{MS, S, Scene};
use crate::{
    counter::Counter,
    layout::{DNS_TIMEOUT_NS, DNS_UNANSWERED, ICMP_TIMEOUT_NS, Methods},
    packet::Direction::{FromLocal, ToLocal},
    testing::query::echo,
};

/// Deadlines are rounded up by less than this.
const ROUNDED: u64 = 1 << 26;

/// The rule in its plain form: all transmissions that wait, oldest first.
#[derive(Default)]
struct Waiting {
    earlier: Vec<u64>,
    latest: Option<u64>,
}

impl Waiting {
    fn until(&mut self, now: u64, timeout: u64) {
        self.earlier.retain(|asked| now - asked <= timeout);
        self.latest.take_if(|asked| now - *asked > timeout);
    }

    fn ask(&mut self, now: u64) {
        self.earlier.extend(self.latest.replace(now));
    }

    /// The round trip, if the answer can only be the latest transmission's. The
    /// answer is taken for that one's in any case.
    fn answer(&mut self, now: u64) -> Option<u64> {
        let Some(asked) = self.latest.take() else {
            self.earlier.pop();
            return None;
        };
        self.earlier.is_empty().then(|| now - asked)
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Ping,
    Dns,
}

impl Kind {
    fn timeout(self) -> u64 {
        match self {
            Self::Ping => ICMP_TIMEOUT_NS,
            Self::Dns => DNS_TIMEOUT_NS,
        }
    }

    fn pass(self, scene: &mut Scene, after: u64, asks: bool) {
        let (local, remote) = (scene.local, scene.remote);
        match (self, asks) {
            (Self::Ping, true) => scene.pass(after, FromLocal, &echo(local, remote, false, 5, 1)),
            (Self::Ping, false) => scene.pass(after, ToLocal, &echo(remote, local, true, 5, 1)),
            (Self::Dns, true) => scene.query(after, 9),
            (Self::Dns, false) => scene.answer(after, 9, 0),
        }
    }
}

fn each(test: impl Fn(Scene, Kind)) {
    for v6 in [false, true] {
        for kind in [Kind::Ping, Kind::Dns] {
            test(Scene::new(v6, Methods::DEFAULT), kind);
        }
    }
}

#[test]
fn one_loss_is_doubted_for_its_own_time_only() {
    each(|mut scene, kind| {
        kind.pass(&mut scene, 0, true);
        for _ in 0..60 {
            kind.pass(&mut scene, S - 3 * MS, true);
            kind.pass(&mut scene, 3 * MS, false);
        }
        let measured = usize::try_from(60 - kind.timeout() / S).unwrap();
        assert_eq!(scene.rtts().len(), measured);
        assert!(scene.rtts().iter().all(|rtt| *rtt == 3 * MS));
    });
}

#[test]
fn a_loss_is_not_doubted_longer_where_two_are_under_way_each_time() {
    each(|mut scene, kind| {
        for _ in 0..2 {
            kind.pass(&mut scene, S / 10, true);
        }
        // Of each pair the first one is doubt for the second one.
        for _ in 0..60 {
            for asks in [true, true, false, false, true, false] {
                kind.pass(&mut scene, S / 10, asks);
            }
        }
        // What comes alone after each pair.
        let rounds = 60 - usize::try_from(kind.timeout() * 10 / S / 6).unwrap();
        assert_eq!(scene.rtts().len(), rounds);
    });
}

#[test]
fn once_all_answers_were_seen_there_is_no_doubt() {
    each(|mut scene, kind| {
        for _ in 0..5 {
            for (asks, after) in [(true, MS), (true, MS), (true, MS), (false, S), (false, MS)] {
                kind.pass(&mut scene, after, asks);
            }
            let before = scene.rtts().len();
            kind.pass(&mut scene, MS, false);
            kind.pass(&mut scene, MS, true);
            kind.pass(&mut scene, 7 * MS, false);
            assert_eq!(scene.rtts()[before..], [7 * MS]);
        }
        assert_eq!(scene.place(1, DNS_UNANSWERED), 0);
    });
}

#[test]
fn a_question_that_nobody_ever_answers_goes_on_being_counted() {
    let mut scene = Scene::new(false, Methods::DEFAULT);
    for _ in 0..61 {
        scene.query(S, 9);
    }
    // One every six seconds: those within five are one query.
    assert_eq!(scene.place(1, DNS_UNANSWERED), 10);
    assert_eq!(scene.counted(Counter::DnsRepeated), 60);
    scene.query(6 * S, 9);
    assert_eq!(scene.place(1, DNS_UNANSWERED), 11);
    scene.answer(MS, 9, 0);
    assert_eq!(scene.rtts(), [MS]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_sample_is_made_where_no_earlier_asking_may_be_answered(
        ping in any::<bool>(),
        // Up to so many transmissions that the deadlines do not find room.
        packets in prop::collection::vec(
            (any::<bool>(), prop_oneof![
                4 => 0..200 * MS, 4 => 0..2 * S, 1 => 0..12 * S,
                1 => Just(5 * S), 1 => Just(10 * S),
            ]),
            1..80,
        ),
    ) {
        let kind = if ping { Kind::Ping } else { Kind::Dns };
        let mut scene = Scene::new(false, Methods::DEFAULT);
        let mut waiting = Waiting::default();
        // What it is where all doubt is rounded up.
        let mut rounded = Waiting::default();
        // With more than three doubts at a time the latest stands for others, and so long others
        // may find no room.
        let mut together_until = 0;
        for (asks, after) in packets {
            let before = scene.rtts().len();
            kind.pass(&mut scene, after, asks);
            waiting.until(scene.now, kind.timeout());
            rounded.until(scene.now, kind.timeout() + ROUNDED);
            if asks {
                waiting.ask(scene.now);
                rounded.ask(scene.now);
                if rounded.earlier.len() > 3 || scene.now <= together_until {
                    together_until = scene.now + kind.timeout() + ROUNDED;
                }
                continue;
            }
            let expected = waiting.answer(scene.now);
            let exact = expected == rounded.answer(scene.now) && scene.now > together_until;
            let found = scene.rtts()[before..].to_vec();
            let known = format!("{expected:?} expected, {found:?} found");
            match expected {
                Some(rtt) if exact => prop_assert_eq!(found, [rtt], "{}", known),
                Some(rtt) => prop_assert!(found.is_empty() || found == [rtt], "{}", known),
                None => prop_assert!(found.is_empty(), "{}", known),
            }
        }
    }
}

/// The id is used again a minute later, and that query is sent twice.
#[test]
fn a_question_is_as_old_as_itself() {
    super::both(|mut scene| {
        let (ms, s) = (1_000_000, 1_000_000_000);
        scene.query(0, 7);
        scene.answer(ms, 7, 0);
        scene.query(60 * s, 7);
        scene.query(2 * s, 7);
        scene.answer(ms, 7, 0);
        assert_eq!(scene.place(1, crate::layout::DNS_UNANSWERED), 0);
    });
}
