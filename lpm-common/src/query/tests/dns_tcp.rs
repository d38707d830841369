//! DNS over TCP.

use std::{vec, vec::Vec};

use super::{MS, S, both};
use crate::{
    counter::Counter,
    layout::DNS_UNANSWERED,
    packet::Direction::{FromLocal, ToLocal},
    query::MOST,
    testing::{frame::Frame, query::Message},
};

#[test]
fn over_tcp_all_messages_of_a_segment_count() {
    both(|mut scene| {
        let (local, remote) = (scene.local, scene.remote);
        let ask = |all: &[Message]| Message::tcp(all, local, remote, 40_000, 53);
        let tell = |all: &[Message]| Message::tcp(all, remote, local, 53, 40_000);
        // As the C library sends them with `options use-vc`.
        scene.pass(0, FromLocal, &ask(&[Message::query(1), Message::query(2)]));
        scene.pass(2 * MS, ToLocal, &tell(&[Message::answer(2, 3)]));
        scene.pass(MS, ToLocal, &tell(&[Message::answer(1, 0)]));
        scene.pass(0, FromLocal, &ask(&[Message::query(3), Message::query(4)]));
        let answers = [Message::answer(3, 0), Message::answer(4, 0)];
        scene.pass(4 * MS, ToLocal, &tell(&answers));
        assert_eq!(scene.rtts(), [2 * MS, 3 * MS, 4 * MS, 4 * MS]);
        // The same id over UDP is another query.
        scene.answer(MS, 1, 0);
        assert_eq!(scene.counted(Counter::DnsUnasked), 1);
        // A long answer begins in one segment and goes on in others.
        scene.pass(MS, FromLocal, &ask(&[Message::query(7)]));
        let mut long = Message::answer(7, 0);
        long.tail = vec![0x55; 3000];
        let mut first = tell(&[long]);
        let rest = first.data.split_off(1000);
        first.payload = 1000;
        scene.pass(5 * MS, ToLocal, &first);
        let mut second = tell(&[]);
        (second.payload, second.data) = (rest.len() as u32, rest);
        scene.pass(MS, ToLocal, &second);
        assert_eq!(scene.rtts()[4..], [5 * MS]);
        assert_eq!(scene.counted(Counter::DnsNoMessage), 1);
        // A query that goes on in another segment: its end is not known to be one.
        let mut cut = ask(&[Message::query(9)]);
        cut.data.truncate(20);
        cut.payload = 20;
        scene.pass(MS, FromLocal, &cut);
        assert_eq!(scene.counted(Counter::DnsNoMessage), 2);
        let mut cut = ask(&[Message::query(9), Message::query(10)]);
        cut.data.truncate(cut.data.len() - 1);
        cut.payload -= 1;
        scene.pass(MS, FromLocal, &cut);
        assert_eq!(scene.counted(Counter::DnsFurther), 1);
        // Bare acknowledgements are nothing, and the flow is counted as ever.
        scene.pass(MS, FromLocal, &ask(&[]));
        assert_eq!(scene.counted(Counter::DnsNoMessage), 2);
        assert_eq!(scene.counted(Counter::FlowJoined), 1);
    });
}

#[test]
fn over_tcp_a_length_may_come_in_a_segment_of_its_own() {
    both(|mut scene| {
        let (local, remote) = (scene.local, scene.remote);
        let split = |frame: &Frame, at: usize| {
            let mut parts = [frame.clone(), frame.clone()];
            parts[1].data = parts[0].data.split_off(at);
            for part in &mut parts {
                part.payload = part.data.len() as u32;
            }
            parts[1].seq = frame.seq.wrapping_add(at as u32);
            parts
        };
        // The sequence numbers come round on the way.
        for (round, seq) in (0..).zip([5_u32, u32::MAX - 1]) {
            let both = [round * 10, round * 10 + 1];
            let mut ask = Message::tcp(&both.map(Message::query), local, remote, 40_000, 53);
            let mut tell = both.map(|id| Message::answer(id, 0));
            tell[0].tail = vec![0; 100];
            let mut tell = Message::tcp(&tell, remote, local, 53, 40_000);
            (ask.seq, tell.seq) = (seq, seq);
            // With the first one's message comes the second one's length; then
            // the second one.
            let [length, rest] = split(&ask, 2);
            let [first, second] = split(&rest, Message::query(0).bytes().len() + 2);
            for part in [length, first, second] {
                scene.pass(MS, FromLocal, &part);
            }
            let [length, rest] = split(&tell, 2);
            scene.pass(MS, ToLocal, &length);
            scene.pass(MS, ToLocal, &rest);
        }
        assert_eq!(scene.rtts(), [3 * MS, 2 * MS, 3 * MS, 2 * MS]);
        assert_eq!(scene.counted(Counter::DnsNoMessage), 0);
        assert_eq!(scene.counted(Counter::DnsRepeated), 0);
        // At another place in the stream it is no message's.
        let ask = Message::tcp(&[Message::query(77)], local, remote, 40_000, 53);
        let [length, mut rest] = split(&ask, 2);
        rest.seq += 1;
        scene.pass(MS, FromLocal, &length);
        scene.pass(MS, FromLocal, &rest);
        assert_eq!(scene.counted(Counter::DnsNoMessage), 1);
        // Nor is it after long.
        rest.seq -= 1;
        scene.pass(6 * S, FromLocal, &rest);
        assert_eq!(scene.counted(Counter::DnsNoMessage), 2);
        // No message is so short.
        let mut short = length.clone();
        short.data = vec![0, 11];
        scene.pass(MS, FromLocal, &short);
        assert_eq!(scene.counted(Counter::DnsNoMessage), 3);
    });
}

#[test]
fn of_very_many_messages_the_rest_is_counted() {
    both(|mut scene| {
        let (local, remote) = (scene.local, scene.remote);
        let many = usize::try_from(MOST).unwrap() + 1;
        let bare = Message {
            tail: vec![0; 5],
            ..Message::query(1)
        };
        scene.pass(
            0,
            FromLocal,
            &Message::tcp(&vec![bare.clone(); many - 1], local, remote, 4, 53),
        );
        assert_eq!(scene.counted(Counter::DnsFurther), 0);
        scene.pass(
            0,
            FromLocal,
            &Message::tcp(&vec![bare; many], local, remote, 4, 53),
        );
        assert_eq!(scene.counted(Counter::DnsFurther), 1);
        assert_eq!(scene.counted(Counter::DnsRepeated), 2 * u64::from(MOST) - 1);
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

/// An error's answer may be nothing but its header (RFC 1035 section 4.1.1).
#[test]
fn an_answer_of_a_header_alone_is_one() {
    both(|mut scene| {
        let (local, remote) = (scene.local, scene.remote);
        let mut answer = Message::answer(5, 3);
        (answer.counts, answer.tail) = ([0; 4], vec![]);
        assert_eq!(answer.bytes().len(), 12);
        let answer = Message::tcp(&[answer], remote, local, 53, 40_000);
        let ask = Message::tcp(&[Message::query(5)], local, remote, 40_000, 53);
        scene.pass(0, FromLocal, &ask);
        scene.pass(2 * MS, ToLocal, &answer);
        assert_eq!(scene.rtts(), [2 * MS]);
        // Its length in a segment of its own.
        let mut parts = [answer.clone(), answer];
        parts[1].data = parts[0].data.split_off(2);
        (parts[0].payload, parts[1].payload) = (2, 12);
        parts[1].seq = parts[0].seq.wrapping_add(2);
        scene.pass(S, FromLocal, &ask);
        for part in &parts {
            scene.pass(2 * MS, ToLocal, part);
        }
        assert_eq!(scene.rtts(), [2 * MS, 4 * MS]);
        assert_eq!(scene.counted(Counter::DnsNoMessage), 0);
    });
}

#[test]
fn on_other_ports_nothing_is_a_message() {
    both(|mut scene| {
        let (local, remote) = (scene.local, scene.remote);
        let ask = Message::tcp(&[Message::query(5)], local, remote, 40_000, 80);
        let tell = Message::tcp(&[Message::answer(5, 0)], remote, local, 80, 40_000);
        scene.pass(0, FromLocal, &ask);
        scene.pass(2 * MS, ToLocal, &tell);
        assert_eq!(scene.rtts(), [0; 0]);
        assert_eq!(scene.counted(Counter::DnsUnasked), 0);
    });
}
