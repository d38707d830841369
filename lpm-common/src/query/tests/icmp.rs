//! Echo requests and replies.

use std::{vec, vec::Vec};

use super::{MS, S, both};
use crate::{
    counter::Counter,
    layout::Leg,
    packet::Direction::{FromLocal, ToLocal},
    testing::query::echo,
};

#[test]
fn an_echo_is_measured_at_both_ends() {
    both(|mut scene| {
        let (local, remote) = (scene.local, scene.remote);
        scene.pass(0, FromLocal, &echo(local, remote, false, 5, 1));
        // The other end pings at the same time, with the same numbers.
        scene.pass(MS, ToLocal, &echo(remote, local, false, 5, 1));
        scene.pass(2 * MS, FromLocal, &echo(local, remote, true, 5, 1));
        scene.pass(4 * MS, ToLocal, &echo(remote, local, true, 5, 1));
        assert_eq!(scene.rtts(), [2 * MS, 7 * MS]);
        let heads: Vec<_> = scene
            .model
            .answers
            .borrow()
            .iter()
            .map(|a| a.query.head)
            .collect();
        assert_eq!(heads[0].leg, Leg::Local as u8);
        assert_eq!(heads[1].leg, Leg::Remote as u8);
        assert_eq!(heads[1].id, 1 << 16 | 5);
        assert_eq!((scene.place(1, 0), scene.place(1, 4)), (1, 1));
        assert_eq!(scene.counted(Counter::SkippedNotTcp), 0);
    });
}

#[test]
fn only_the_first_reply_counts() {
    both(|mut scene| {
        let (local, remote) = (scene.local, scene.remote);
        scene.pass(0, FromLocal, &echo(local, remote, false, 5, 1));
        for (id, sequence) in [(6, 1), (5, 2)] {
            scene.pass(MS, ToLocal, &echo(remote, local, true, id, sequence));
        }
        assert_eq!(scene.counted(Counter::IcmpUnasked), 2);
        for _ in 0..3 {
            scene.pass(MS, ToLocal, &echo(remote, local, true, 5, 1));
        }
        assert_eq!(scene.rtts(), [3 * MS]);
        assert_eq!(scene.counted(Counter::IcmpDuplicate), 2);
        // The number comes round again: another query.
        scene.pass(S, FromLocal, &echo(local, remote, false, 5, 1));
        scene.pass(MS, ToLocal, &echo(remote, local, true, 5, 1));
        assert_eq!(scene.rtts(), [3 * MS, MS]);
        assert_eq!(scene.counted(Counter::IcmpRepeated), 0);
    });
}

#[test]
fn an_error_that_quotes_an_echo_is_no_answer() {
    both(|mut scene| {
        let (local, remote) = (scene.local, scene.remote);
        let request = echo(local, remote, false, 5, 1);
        scene.pass(0, FromLocal, &request);
        let mut error = echo(remote, local, true, 5, 1);
        let (protocol, bytes) = error.other.as_mut().unwrap();
        bytes[0] = if *protocol == 1 { 3 } else { 1 };
        bytes.truncate(8);
        let quoted = request.bytes();
        bytes.extend(&quoted[14..]);
        scene.pass(MS, ToLocal, &error);
        // In a layout that is not common, too.
        if local.is_ipv4() {
            error.ip_options = vec![1; 4];
        } else {
            error.extensions = vec![(60, vec![0; 8])];
        }
        scene.pass(MS, ToLocal, &error);
        // Nor is a code that no echo has.
        let mut code = echo(remote, local, true, 5, 1);
        code.other.as_mut().unwrap().1[1] = 1;
        scene.pass(MS, ToLocal, &code);
        assert_eq!(scene.rtts(), [0; 0]);
        assert_eq!(scene.counted(Counter::SkippedNotTcp), 3);
    });
}
