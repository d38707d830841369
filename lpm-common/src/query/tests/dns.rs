//! DNS over UDP.

use std::{vec, vec::Vec};

use super::{MS, S, both};
use crate::{
    counter::Counter,
    layout::{DNS_UNANSWERED, PairKey, Rcode},
    packet::Direction::{FromLocal, ToLocal},
    testing::query::Message,
};

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
        // At once again: both answers were seen, so this is its own.
        scene.query(MS, 9);
        scene.answer(MS, 9, 0);
        assert_eq!(scene.counted(Counter::DnsAmbiguous), 1);
        // Another port is another query.
        let frame = Message::query(9).udp(scene.local, scene.remote, 40_001, 53);
        scene.pass(MS, FromLocal, &frame);
        scene.answer(MS, 9, 0);
        assert_eq!(scene.rtts(), [MS]);
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
        // its time is up.
        scene.query(MS, 9);
        assert_eq!(scene.place(1, DNS_UNANSWERED), 1);
        scene.answer(MS, 9, 0);
        assert_eq!(scene.rtts(), [MS]);
        // In time to the nanosecond.
        scene.query(60 * S, 10);
        scene.answer(5 * S, 10, 0);
        assert_eq!(scene.rtts(), [MS, 5 * S]);
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
