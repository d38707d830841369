//! Queries and answers with different tags.

use std::{vec, vec::Vec};

use super::{MS, NONE, Scene, WAYS};
use crate::{
    counter::Counter,
    layout::Methods,
    packet::Direction::{FromLocal, ToLocal},
    testing::{
        frame::Frame,
        query::{Message, echo},
        vectors,
    },
};

/// A query and an answer, of each method that has them.
fn questions(v6: bool) -> Vec<(Frame, Frame)> {
    let (local, remote) = vectors::ends(v6);
    vec![
        (
            echo(local, remote, false, 5, 1),
            echo(remote, local, true, 5, 1),
        ),
        (
            Message::query(77).udp(local, remote, 40_000, 53),
            Message::answer(77, 0).udp(remote, local, 53, 40_000),
        ),
    ]
}

fn each_question(test: impl Fn(Scene, Frame, Frame)) {
    for v6 in [false, true] {
        for (question, answer) in questions(v6) {
            for beside in [false, true] {
                let scene = Scene::new(v6, beside, Methods::DEFAULT);
                test(scene, question.clone(), answer.clone());
            }
        }
    }
}

fn answers(scene: &Scene) -> Vec<u64> {
    let answers = scene.model.answers.take();
    answers.iter().map(|answer| answer.rtt_ns / MS).collect()
}

#[test]
fn answers_in_another_vlan_are_measured() {
    for (what, there, back) in WAYS {
        each_question(|mut scene, question, answer| {
            scene.pass(FromLocal, there, question);
            scene.wait(5);
            scene.pass(ToLocal, back, answer.clone());
            scene.pass(ToLocal, back, answer);
            assert_eq!(answers(&scene), [5], "{what}");
            assert_eq!(scene.counted(Counter::VlanQuestionJoined), 1, "{what}");
            let unasked = scene.counted(Counter::IcmpUnasked) + scene.counted(Counter::DnsUnasked);
            assert!(unasked <= 1, "{what}: the second answer");
        });
    }
}

#[test]
fn questions_that_each_vlan_shows_whole_stay_apart() {
    for [one, other] in [
        [&[(0x8100, 300)][..], &[(0x8100, 50)][..]],
        [NONE, &[(0x8100, 50)][..]],
        [&[(0x8100, 50)][..], NONE],
    ] {
        each_question(|mut scene, question, answer| {
            scene.pass(FromLocal, one, question.clone());
            scene.pass(FromLocal, other, question);
            // An answer in a third VLAN is anybody's.
            scene.pass(ToLocal, &[(0x8100, 9)], answer.clone());
            scene.wait(5);
            scene.pass(ToLocal, other, answer.clone());
            scene.wait(3);
            scene.pass(ToLocal, one, answer);
            assert_eq!(answers(&scene), [5, 8]);
            assert_eq!(scene.counted(Counter::VlanQuestionJoined), 0);
            assert_eq!(scene.counted(Counter::VlanQuestionAmbiguous), 1);
        });
    }
}

#[test]
fn a_question_asked_again_in_another_vlan_once_it_is_answered_is_another() {
    each_question(|mut scene, question, answer| {
        for (there, back) in [(30, 40), (31, 41)] {
            let tags = |id| match id {
                30 => &[(0x8100, 30)][..],
                31 => &[(0x8100, 31)],
                40 => &[(0x8100, 40)],
                _ => &[(0x8100, 41)],
            };
            scene.pass(FromLocal, tags(there), question.clone());
            scene.wait(5);
            scene.pass(ToLocal, tags(back), answer.clone());
        }
        assert_eq!(answers(&scene), [5, 5]);
    });
}
