//! DNS over TCP.

use std::{vec, vec::Vec};

use super::{MS, S, both};
use crate::{
    counter::Counter,
    layout::DNS_UNANSWERED,
    model::question::Message,
    packet::Direction::{FromLocal, ToLocal},
};

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
