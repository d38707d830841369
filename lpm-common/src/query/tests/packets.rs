//! Merged datagrams (GSO, GRO), and datagrams in fragments.

use std::vec::Vec;

use super::{MS, S, Scene, both};
use crate::{
    counter::Counter,
    layout::{DNS_UNANSWERED, Leg},
    packet::Direction::{self, FromLocal, ToLocal},
    testing::{
        frame::Frame,
        query::{Message, echo},
    },
};

/// Merged datagrams of one length, the last one perhaps shorter, as the kernel
/// merges them: one header, and the payloads.
fn merged(all: &[Message], frame: impl Fn(&Message) -> Frame) -> (Frame, u32) {
    let mut tail: Vec<u8> = all.iter().flat_map(Message::bytes).collect();
    let size = all[0].bytes().len() as u32;
    let tail = tail.split_off(12);
    let first = Message {
        tail,
        ..all[0].clone()
    };
    (frame(&first), size)
}

impl Scene {
    fn pass_merged(&mut self, after: u64, direction: Direction, all: &[Message]) {
        let (local, remote) = (self.local, self.remote);
        let (frame, size) = merged(all, |first| match direction {
            FromLocal => first.udp(local, remote, 40_000, 53),
            ToLocal => first.udp(remote, local, 53, 40_000),
        });
        self.now += after;
        let mut arrival = self.at(direction);
        arrival.segments = all.len() as u32;
        arrival.segment_size = size;
        self.model.packet(&frame.bytes(), &arrival);
    }
}

#[test]
fn of_merged_datagrams_each_is_read() {
    both(|mut scene| {
        scene.pass_merged(0, FromLocal, &[1, 2].map(Message::query));
        scene.answer(2 * MS, 2, 0);
        scene.answer(MS, 1, 3);
        scene.query(MS, 3);
        scene.query(MS, 4);
        // The last one is shorter.
        let mut answers = [4, 3].map(|id| Message::answer(id, 3));
        answers[1].tail.truncate(4);
        scene.pass_merged(5 * MS, ToLocal, &answers);
        assert_eq!(scene.rtts(), [2 * MS, 3 * MS, 5 * MS, 6 * MS]);
        // As many as the kernel puts together.
        let all: Vec<u16> = (0..8).map(|id| 100 + id).collect();
        let each = |make: fn(u16) -> Message| all.iter().map(|id| make(*id)).collect::<Vec<_>>();
        scene.pass_merged(S, FromLocal, &each(Message::query));
        scene.pass_merged(MS, ToLocal, &each(|id| Message::answer(id, 0)));
        let full = scene.counted(Counter::QueriesFull);
        assert_eq!(scene.rtts().len() as u64, 4 + 8 - full);
        assert_eq!(scene.counted(Counter::DnsFurther), 0);
    });
}

#[test]
fn one_that_is_none_does_not_hide_the_others() {
    both(|mut scene| {
        let update = Message {
            flags: 5 << 11,
            ..Message::query(1)
        };
        let empty = Message {
            counts: [0; 4],
            ..Message::query(2)
        };
        scene.pass_merged(
            0,
            FromLocal,
            &[update, Message::query(3), empty, Message::query(4)],
        );
        scene.answer(MS, 3, 0);
        scene.answer(MS, 4, 0);
        assert_eq!(scene.rtts(), [MS, 2 * MS]);
        assert_eq!(scene.counted(Counter::DnsOpcode), 1);
        assert_eq!(scene.counted(Counter::DnsMalformed), 1);
        // Lies about the length of each.
        for size in [1, 11, 12, 17, u32::MAX] {
            let (frame, _) = merged(&[Message::query(5), Message::query(6)], |first| {
                first.udp(scene.local, scene.remote, 40_000, 53)
            });
            scene.now += S;
            let mut arrival = scene.at(FromLocal);
            (arrival.segments, arrival.segment_size) = (u32::MAX, size);
            scene.model.packet(&frame.bytes(), &arrival);
        }
        assert!(scene.counted(Counter::DnsFurther) <= 2);
    });
}

/// The fragments of a datagram.
fn fragments(frame: &Frame, first: usize) -> [Vec<u8>; 2] {
    let (protocol, body) = frame.other.clone().unwrap();
    [(0, true), (first, false)].map(|(offset, more)| {
        let part = if more { &body[..first] } else { &body[first..] };
        let mut frame = frame.clone();
        let units = (offset / 8) as u16;
        if frame.src.is_ipv4() {
            frame.other = Some((protocol, part.to_vec()));
            let mut bytes = frame.bytes();
            bytes[20..22].copy_from_slice(&(units | u16::from(more) << 13).to_be_bytes());
            return bytes;
        }
        let [high, low] = (units << 3 | u16::from(more)).to_be_bytes();
        frame.extensions = [(44, [0, 0, high, low, 0, 0, 0, 9].to_vec())].to_vec();
        frame.other = Some((protocol, part.to_vec()));
        frame.bytes()
    })
}

impl Scene {
    fn pass_fragments(&mut self, after: u64, direction: Direction, frame: &Frame) {
        self.now += after;
        for bytes in fragments(frame, 1400) {
            self.model.packet(&bytes, &self.at(direction));
            self.now += 20_000;
        }
        self.now -= 40_000;
    }
}

#[test]
fn an_answer_in_fragments_is_measured_at_the_first_one() {
    both(|mut scene| {
        let (local, remote) = (scene.local, scene.remote);
        let mut answer = Message::answer(7, 0);
        answer.tail.extend([0x55; 1700]);
        scene.query(0, 7);
        scene.pass_fragments(4 * MS, ToLocal, &answer.udp(remote, local, 53, 40_000));
        assert_eq!(scene.rtts(), [4 * MS]);
        // A query in fragments too.
        let mut query = Message::query(8);
        query.tail.extend([0x55; 1700]);
        scene.pass_fragments(S, FromLocal, &query.udp(local, remote, 40_000, 53));
        scene.answer(3 * MS, 8, 0);
        assert_eq!(scene.rtts(), [4 * MS, 3 * MS]);
        scene.query(60 * S, 9);
        assert_eq!(scene.place(1, DNS_UNANSWERED), 0);
    });
}

#[test]
fn a_ping_in_fragments_is_measured_from_first_to_first() {
    both(|mut scene| {
        let (local, remote) = (scene.local, scene.remote);
        let long = |src, dst, reply| {
            let mut frame = echo(src, dst, reply, 5, 1);
            frame.other.as_mut().unwrap().1.resize(3000, 0x5a);
            frame
        };
        for (leg, (from, to)) in [
            (Leg::Remote, (FromLocal, ToLocal)),
            (Leg::Local, (ToLocal, FromLocal)),
        ] {
            let (src, dst) = match leg {
                Leg::Remote => (local, remote),
                Leg::Local => (remote, local),
            };
            scene.pass_fragments(S, from, &long(src, dst, false));
            scene.pass_fragments(6 * MS, to, &long(dst, src, true));
        }
        assert_eq!(scene.rtts(), [6 * MS; 2]);
        let places = (scene.place(1, 0), scene.place(1, 4));
        assert_eq!(places, (1, 1));
    });
}

#[test]
fn fragments_of_anything_else_are_left_out() {
    both(|mut scene| {
        let (local, remote) = (scene.local, scene.remote);
        let mut other = Message::query(1);
        other.tail.extend([0; 1700]);
        scene.pass_fragments(0, FromLocal, &other.udp(local, remote, 40_000, 54));
        let tcp = Frame {
            other: Some((6, [0x50; 2000].to_vec())),
            ..Frame::new(local, remote, 40_000, 53)
        };
        scene.pass_fragments(0, FromLocal, &tcp);
        assert_eq!(scene.rtts(), [0; 0]);
        // That the first fragment of the one is of another port, is seen at once.
        let at_once = u64::from(local.is_ipv4());
        assert_eq!(scene.counted(Counter::SkippedNotTcp), at_once);
        assert_eq!(scene.counted(Counter::SkippedFragment), 4 - at_once);
        assert_eq!(scene.counted(Counter::FlowJoined), 0);
    });
}

/// A fragment that is not the first looks like anything: here like an answer.
#[test]
fn a_later_fragment_is_no_message() {
    both(|mut scene| {
        let (local, remote) = (scene.local, scene.remote);
        scene.query(0, 7);
        let answer = Message::answer(7, 0).udp(remote, local, 53, 40_000);
        let (protocol, mut body) = answer.other.clone().unwrap();
        body.resize(1480, 0);
        body.extend(answer.other.as_ref().unwrap().1.clone());
        let whole = Frame {
            other: Some((protocol, body)),
            ..answer
        };
        let [_, later] = fragments(&whole, 1480);
        scene.now += MS;
        scene.model.packet(&later, &scene.at(ToLocal));
        assert_eq!(scene.rtts(), [0; 0]);
        assert_eq!(scene.counted(Counter::SkippedFragment), 1);
        scene.answer(4 * MS, 7, 0);
        assert_eq!(scene.rtts(), [5 * MS]);
    });
}

/// A datagram of less than a DNS header among others.
#[test]
fn a_datagram_too_short_for_a_message_is_malformed() {
    both(|mut scene| {
        scene.pass_merged(0, FromLocal, &[Message::query(1), Message::query(2)]);
        let before = scene.counted(Counter::DnsMalformed);
        let (local, remote) = (scene.local, scene.remote);
        let mut frame = Message::query(3).udp(local, remote, 40_000, 53);
        let (_, body) = frame.other.as_mut().unwrap();
        let size = body.len() - 8;
        body.extend([0; 11]);
        let length = u16::try_from(body.len()).unwrap();
        body[4..6].copy_from_slice(&length.to_be_bytes());
        let mut arrival = scene.at(FromLocal);
        arrival.segments = 2;
        arrival.segment_size = u32::try_from(size).unwrap();
        scene.model.packet(&frame.bytes(), &arrival);
        assert_eq!(scene.counted(Counter::DnsMalformed), before + 1);
    });
}
