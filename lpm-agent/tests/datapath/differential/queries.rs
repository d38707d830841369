//! Random pings and DNS queries, with their answers.

use std::net::IpAddr;

use lpm_common::{
    packet::Direction,
    testing::{
        frame::{Frame, layouts},
        query::{Message, echo},
        vectors,
    },
};
use proptest::prelude::*;

use super::{Pair, arrival};

/// A question or an answer in any layout: as it should be, with noise in its
/// header, or cut.
pub(crate) fn any_question() -> impl Strategy<Value = (Frame, Direction, usize, u64)> {
    let what = (0_u8..5, 0_u16..3, 0_u16..8, any::<bool>(), any::<bool>());
    let noise = prop_oneof![
        8 => Just(None),
        1 => any::<(prop::sample::Index, u8)>().prop_map(Some),
    ];
    let cut = prop_oneof![8 => Just(usize::MAX), 1 => 55_usize..140];
    let gap = prop_oneof![9 => 0_u64..3_000_000, 1 => 0_u64..12_000_000_000];
    (what, noise, 0_usize..30, cut, gap).prop_map(
        |((kind, id, rcode, v6, from_local), noise, shape, cut, gap)| {
            let (local, remote) = vectors::ends(v6);
            let answers = rcode % 2 == 1;
            // The local end asks servers; now and then it is the other way.
            let from_local = if kind > 0 && rcode < 6 {
                !answers
            } else {
                from_local
            };
            let (src, dst) = if from_local {
                (local, remote)
            } else {
                (remote, local)
            };
            let (sport, dport) = if from_local { (4000, 53) } else { (53, 4000) };
            let message = if answers {
                Message::answer(id, rcode)
            } else {
                Message::query(id)
            };
            let mut frame = match kind {
                0 => echo(src, dst, answers, 1, id),
                1 => segment(&message, rcode, src, dst, (sport, dport)),
                // As the kernel puts datagrams together.
                4 => merged(&message, src, dst, (sport, dport)),
                _ => message.udp(src, dst, sport, dport),
            };
            if let Some((at, byte)) = noise {
                let bytes = frame
                    .other
                    .as_mut()
                    .map_or(&mut frame.data, |other| &mut other.1);
                let at = at.index(bytes.len().min(20));
                bytes[at] = byte;
            }
            if let Some((_, layout)) = layouts(local, remote, 1, 2).into_iter().nth(shape) {
                frame.ethernet = layout.ethernet;
                frame.tags = layout.tags;
                frame.ip_options = layout.ip_options;
                frame.extensions = layout.extensions;
            }
            let direction = if from_local {
                Direction::FromLocal
            } else {
                Direction::ToLocal
            };
            frame.payload = frame.data.len().try_into().unwrap();
            (frame, direction, cut, gap)
        },
    )
}

/// Messages over TCP: two in a segment, or the length alone, or what comes then.
fn segment(message: &Message, kind: u16, src: IpAddr, dst: IpAddr, ports: (u16, u16)) -> Frame {
    let next = Message {
        id: message.id + 1,
        ..message.clone()
    };
    let mut frame = Message::tcp(&[message.clone(), next], src, dst, ports.0, ports.1);
    match kind / 2 {
        0 => frame.data.truncate(2),
        1 => {
            frame.data.drain(..2);
            frame.seq = 2;
        }
        2 => frame.data.truncate(frame.data.len() - 1),
        _ => {}
    }
    frame
}

/// Three datagrams, of which the last one is shorter.
fn merged(message: &Message, src: IpAddr, dst: IpAddr, ports: (u16, u16)) -> Frame {
    let mut all = Vec::new();
    for id in 0..3 {
        let one = Message {
            id,
            ..message.clone()
        };
        all.extend(one.bytes());
    }
    all.truncate(all.len() - 2);
    let tail = all.split_off(12);
    let first = Message {
        id: 0,
        tail,
        ..message.clone()
    };
    first.udp(src, dst, ports.0, ports.1)
}

#[test]
fn any_questions_and_answers_leave_the_same_state() {
    any_questions(false);
}

#[test]
fn any_questions_and_answers_at_joined_hooks_leave_the_same_state() {
    any_questions(true);
}

fn any_questions(joined: bool) {
    let Some(mut pair) = Pair::new() else { return };
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let (mut samples, mut unanswered) = (0, 0);
    let seen = std::cell::RefCell::new((&mut samples, &mut unanswered));
    let pair = std::cell::RefCell::new(&mut pair);
    runner
        .run(&prop::collection::vec(any_question(), 1..60), |packets| {
            let mut pair = pair.borrow_mut();
            let model = if joined {
                pair.reset_joined()
            } else {
                pair.reset()
            };
            let mut now = 0;
            for (frame, direction, cut, gap) in packets {
                now += gap;
                let mut arrival = arrival(&frame, now);
                arrival.direction = direction;
                let one = Message::query(0).bytes().len();
                let udp = frame.other.as_ref().filter(|(protocol, _)| *protocol == 17);
                if udp.is_some_and(|(_, bytes)| bytes.len() > 8 + one) {
                    arrival.segments = 3;
                    arrival.segment_size = one.try_into().unwrap();
                }
                let mut bytes = frame.bytes();
                if gap % 5 == 0 && frame.ethernet && bytes[12..15] == [8, 0, 0x45] {
                    // A fragment: the first one, or a later one.
                    bytes[20..22].copy_from_slice(&[if gap % 2 == 0 { 0x20 } else { 0 }, 0]);
                    bytes[21] = u8::from(gap % 3 == 0);
                }
                let bytes = &bytes[..bytes.len().min(cut)];
                if joined {
                    if pair.joined_packet(bytes, &arrival) {
                        model.joined_packet(bytes, &arrival);
                    }
                } else if pair.packet(bytes, &arrival) {
                    model.packet(bytes, &arrival);
                }
            }
            pair.assert_same(&model, "random questions");
            let mut seen = seen.borrow_mut();
            *seen.0 += model.answers.borrow().len();
            let histograms = model.histograms.borrow();
            *seen.1 += histograms.iter().skip(8).map(|place| place[0]).sum::<u64>();
            Ok(())
        })
        .unwrap();
    println!("{samples} answers, {unanswered} unanswered");
    assert!(
        samples > 100 && unanswered > 10,
        "the packets have to do with each other"
    );
}
