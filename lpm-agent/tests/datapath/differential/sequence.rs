//! Conversations in which sequence numbers follow each other, as random
//! packets hardly ever do: new data, copies, holes, old and doubled ACKs, SACK.

use lpm_common::{
    layout::{Method, Methods},
    testing::{frame::Frame, vectors},
};
use proptest::prelude::*;

use super::{Pair, arrival};

/// One packet, by what it does to its sender's numbers.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// SYN, or SYN-ACK if the other end's was seen.
    Syn,
    /// The next data.
    Next,
    /// Data that starts so many bytes before the next.
    Again(u32),
    /// Data that leaves so many bytes out.
    Hole(u32),
    /// No data.
    Pure,
    /// No data, with a block of a SACK option.
    Sack,
    /// The last byte again, or none at its place.
    KeepAlive(u32),
    Fin,
    Rst,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    kind: Kind,
    pub(crate) from_local: bool,
    payload: u32,
    /// How much of what the other end sent stays unacknowledged; beyond it,
    /// none does, and below 0 more is acknowledged than was sent.
    behind: i32,
    gap_ns: u64,
}

pub(crate) fn any_step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        2 => Just(Kind::Syn),
        12 => Just(Kind::Next),
        3 => (0_u32..4000).prop_map(Kind::Again),
        1 => (1_u32..3000).prop_map(Kind::Hole),
        9 => Just(Kind::Pure),
        1 => Just(Kind::Sack),
        1 => (0_u32..2).prop_map(Kind::KeepAlive),
        1 => Just(Kind::Fin),
        1 => Just(Kind::Rst),
    ];
    let payload = prop_oneof![Just(1_u32), 2_u32..300, Just(1448), Just(1460), Just(2800)];
    let behind = prop_oneof![6 => Just(0), 3 => 1_i32..3000, 1 => -3000..0];
    let gap =
        prop_oneof![8 => 0_u64..3_000_000, 1 => 0_u64..5_000_000_000, 1 => Just(250_000_000_000)];
    (kind, any::<bool>(), payload, behind, gap).prop_map(
        |(kind, from_local, payload, behind, gap_ns)| Step {
            kind,
            from_local,
            payload,
            behind,
            gap_ns,
        },
    )
}

/// What both ends would send next; 0 is the local one.
pub(crate) struct Talk {
    pub(crate) next: [u32; 2],
    pub(crate) now_ns: u64,
    pub(crate) timestamps: bool,
}

impl Talk {
    pub(crate) fn frame(&mut self, step: Step) -> Frame {
        let (local, remote) = vectors::ends(false);
        let mut frame = if step.from_local {
            Frame::new(local, remote, 41140, 5301)
        } else {
            Frame::new(remote, local, 5301, 41140)
        };
        let (own, other) = if step.from_local { (0, 1) } else { (1, 0) };
        self.now_ns += step.gap_ns;
        let next = self.next[own];
        let behind = step.behind.cast_unsigned();
        (frame.seq, frame.ack) = (next, self.next[other].wrapping_sub(behind));
        frame.payload = step.payload;
        match step.kind {
            Kind::Syn => {
                frame.flags |= 0x02;
                (frame.payload, frame.mss) = (0, Some(1460));
                self.next[own] = next.wrapping_add(1);
                if step.from_local {
                    frame.flags = 0x02;
                }
            }
            Kind::Next => {}
            Kind::Again(back) => frame.seq = next.wrapping_sub(back),
            Kind::Hole(left_out) => frame.seq = next.wrapping_add(left_out),
            Kind::Pure => frame.payload = 0,
            Kind::Sack => {
                frame.payload = 0;
                let edges = [frame.ack.wrapping_add(9), frame.ack.wrapping_add(20)];
                let edges = edges.iter().flat_map(|edge| edge.to_be_bytes());
                frame.options_first = [1, 1, 5, 10].into_iter().chain(edges).collect();
            }
            Kind::KeepAlive(bytes) => (frame.seq, frame.payload) = (next.wrapping_sub(1), bytes),
            Kind::Fin => frame.flags |= 0x01,
            Kind::Rst => (frame.flags, frame.payload) = (0x14, 0),
        }
        let fin = u32::from(frame.flags & 0x01);
        let end = frame.seq.wrapping_add(frame.payload + fin);
        if frame.payload + fin > 0 && end.wrapping_sub(self.next[own]).cast_signed() > 0 {
            self.next[own] = end;
        }
        // One tick each millisecond; what is echoed is never new.
        let tick = u32::try_from(self.now_ns / 1_000_000).unwrap_or(u32::MAX);
        frame.timestamp = self.timestamps.then_some((tick, tick.saturating_sub(3)));
        frame
    }
}

/// Returns how many requests were timed.
fn conversations(methods: Methods, timestamps: bool) -> usize {
    let Some(pair) = Pair::of_methods(methods) else {
        return usize::MAX;
    };
    let pair = std::cell::RefCell::new(pair);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let begin = prop_oneof![
        Just([u32::MAX - 2000, 7]),
        Just([1 << 31, 900]),
        any::<[u32; 2]>()
    ];
    let talk = (begin, prop::collection::vec(any_step(), 1..120));
    let (samples, requests) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    let outcome = runner.run(&talk, |(next, steps)| {
        let mut pair = pair.borrow_mut();
        let model = pair.reset();
        let mut talk = Talk {
            next,
            now_ns: 0,
            timestamps,
        };
        for step in steps {
            let frame = talk.frame(step);
            let arrival = arrival(&frame, talk.now_ns);
            let bytes = frame.bytes();
            assert!(pair.packet(&bytes, &arrival));
            model.packet(&bytes, &arrival);
        }
        pair.assert_same(&model, "a conversation");
        samples.set(samples.get() + model.samples.borrow().len());
        requests.set(requests.get() + model.requested.borrow().len());
        Ok(())
    });
    outcome.unwrap();
    assert!(samples.get() > 500, "only {} samples", samples.get());
    requests.get()
}

#[test]
fn conversations_without_timestamps_leave_the_same_state() {
    conversations(Methods::DEFAULT, false);
}

#[test]
fn conversations_by_sequence_number_alone_leave_the_same_state() {
    let methods = [Method::Seq, Method::Handshake].into_iter().collect();
    conversations(methods, true);
}

#[test]
fn conversations_with_requests_leave_the_same_state() {
    for timestamps in [false, true] {
        let requests = conversations(Method::ALL.into_iter().collect(), timestamps);
        assert!(requests > 100, "only {requests} requests");
    }
}
