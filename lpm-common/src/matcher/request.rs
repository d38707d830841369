//! Method `request`: from the first byte of a request to the last byte of its
//! answer, on a connection whose ends take turns.
//!
//! The end that opened the connection asks (RFC 9293 section 3.5). A connection
//! whose SYN was not seen is not measured. An answer has ended when the asking
//! end has acknowledged all of it and asks again, or when the connection
//! closes. Segments that were sent again count as they pass: the last byte is
//! the one that the asking end waited for. Where the ends do not take turns, no
//! sample is made:
//!
//! - a request that begins before all of the answer is acknowledged (pipelining,
//!   several streams on one connection);
//! - a request that goes on though all of it was acknowledged: it may be a
//!   second one, behind one that has no answer;
//! - an answer that goes on after a second in which nothing was outstanding: it
//!   may be its slow end, something that the answering end says by itself, or
//!   the farewell of one that closes what nobody used any more (TLS
//!   `close_notify`, RFC 8446 section 6.1; HTTP/2 GOAWAY, RFC 9113 section 6.8).

use core::sync::atomic::Ordering::Relaxed;

use super::{FlowPacket, sequence::SeqOrder};
use crate::{
    counter::Counter,
    env::{Env, RequestSample},
    layout::{RequestEntry, RequestPhase as Phase},
    packet::{Direction, TcpHead, flag},
};

/// The local end opened the connection.
const LOCAL_ASKS: u32 = 1 << 2;
/// The remote end opened the connection.
const REMOTE_ASKS: u32 = 1 << 3;
/// The answering end has acknowledged all that the asking end sent.
const RECEIVED: u32 = 1 << 4;
/// The asking end has acknowledged all that the answering end sent.
const DELIVERED: u32 = 1 << 5;
/// The latest payload came from the answering end.
const ANSWER_LAST: u32 = 1 << 6;
/// The answering end has sent FIN.
const ANSWER_CLOSED: u32 = 1 << 7;
/// The answer went on though all of it had been acknowledged for [`SILENCE_NS`].
const WENT_ON: u32 = 1 << 8;
/// The flags that hold for the whole connection.
const FOR_LIFE: u32 = LOCAL_ASKS | REMOTE_ASKS | ANSWER_CLOSED;

/// Silence after which more data may be something else than the answer's end.
/// No server closes an idle connection sooner (nginx waits 75 s, Apache httpd 5
/// s).
const SILENCE_NS: u64 = 1_000_000_000;

/// Follows the turns of the ends. `course` is the part of [`super::prepare`]'s
/// result that says how the packet follows the ones before it.
#[inline(always)]
pub(super) fn packet<E: Env>(
    at: &FlowPacket<'_>,
    request: &RequestEntry,
    head: &TcpHead,
    course: u32,
    env: &E,
) {
    let mut state = own_state(at, request);
    state = opened(at, head, state);
    let asks = if at.direction == Direction::FromLocal {
        LOCAL_ASKS
    } else {
        REMOTE_ASKS
    };
    if state & (LOCAL_ASKS | REMOTE_ASKS) == 0 {
        // The flow was first seen in mid-stream: nothing tells which end asks.
        return;
    }
    let from_asking = state & asks != 0;
    let turn = Turn {
        at,
        request,
        head,
        env,
    };
    state = if head.has(flag::RST) {
        turn.reset(state)
    } else if from_asking {
        turn.asking(state, course)
    } else {
        turn.answering(state, course)
    };
    request.state.store(state, Relaxed);
}

/// The state of this flow's request. It starts anew if the entry belonged to
/// another flow, or to the same flow before it lost its flow entry.
#[inline(always)]
fn own_state(at: &FlowPacket<'_>, request: &RequestEntry) -> u32 {
    let life = at.fingerprint ^ u64::from(at.entry.cold.first_seen.load(Relaxed));
    if request.flow.load(Relaxed) == life {
        return request.state.load(Relaxed);
    }
    request.row.store(0, Relaxed);
    request.state.store(0, Relaxed);
    request.flow.store(life, Relaxed);
    0
}

/// The state after a SYN, which says which end asks.
#[inline(always)]
fn opened(at: &FlowPacket<'_>, head: &TcpHead, state: u32) -> u32 {
    let (own, other) = if at.direction == Direction::FromLocal {
        (LOCAL_ASKS, REMOTE_ASKS)
    } else {
        (REMOTE_ASKS, LOCAL_ASKS)
    };
    if head.opens() {
        own
    } else if head.has(flag::SYN) && state & (LOCAL_ASKS | REMOTE_ASKS) == 0 {
        other
    } else {
        state
    }
}

/// A packet, and the request that it belongs to.
struct Turn<'a, E> {
    at: &'a FlowPacket<'a>,
    request: &'a RequestEntry,
    head: &'a TcpHead,
    env: &'a E,
}

impl<E: Env> Turn<'_, E> {
    /// Takes a packet of the asking end. Returns the new state.
    #[inline(always)]
    fn asking(&self, mut state: u32, course: u32) -> u32 {
        if self.acknowledges_all() {
            state |= DELIVERED;
        }
        let answered = Phase::of(state) == Phase::Answering && state & DELIVERED != 0;
        if self.head.payload != 0 && is_new(course) {
            return self.asks(state, answered);
        }
        if answered && (self.head.has(flag::FIN) || state & ANSWER_CLOSED != 0) {
            self.complete(state);
            return state & FOR_LIFE | DELIVERED;
        }
        state
    }

    /// Takes new payload of the asking end. Returns the new state.
    #[inline(always)]
    fn asks(&self, state: u32, answered: bool) -> u32 {
        let begins = match Phase::of(state) {
            Phase::Idle => true,
            Phase::Asking if state & RECEIVED == 0 => {
                return state & !ANSWER_LAST;
            }
            Phase::Asking => {
                self.env.count(Counter::RequestInterrupted, 1);
                false
            }
            Phase::Answering if answered => {
                self.complete(state);
                true
            }
            Phase::Answering => {
                self.env.count(Counter::RequestOverlapping, 1);
                false
            }
            Phase::Overlapping => {
                let all = RECEIVED | DELIVERED | ANSWER_LAST;
                state & all == all
            }
        };
        let kept = state & (FOR_LIFE | DELIVERED);
        if !begins {
            return kept | Phase::Overlapping as u32;
        }
        self.request.asked_ns.store(self.env.now_ns(), Relaxed);
        kept | Phase::Asking as u32
    }

    /// Takes a packet of the answering end. Returns the new state.
    #[inline(always)]
    fn answering(&self, mut state: u32, course: u32) -> u32 {
        if self.acknowledges_all() {
            state |= RECEIVED;
        }
        let delivered = state & DELIVERED != 0;
        if self.head.has(flag::FIN) {
            state = state & !DELIVERED | ANSWER_CLOSED;
        }
        if self.head.payload == 0 || course == SeqOrder::Nothing as u32 {
            return state;
        }
        let phase = Phase::of(state);
        if course == SeqOrder::Again as u32 {
            // What the asking end has received already is no part of its wait.
            if phase == Phase::Answering && state & DELIVERED == 0 {
                self.request.answered_ns.store(self.env.now_ns(), Relaxed);
            }
            return state;
        }
        let mut next = phase as u32;
        // Before the answering end has all of the request, it speaks of
        // something else.
        if phase == Phase::Answering || (phase == Phase::Asking && state & RECEIVED != 0) {
            let now = self.env.now_ns();
            let silent = now.wrapping_sub(self.request.answered_ns.load(Relaxed));
            let whole = phase == Phase::Answering && delivered;
            self.request.answered_ns.store(now, Relaxed);
            next = Phase::Answering as u32 | state & WENT_ON;
            if whole && silent >= SILENCE_NS {
                next |= WENT_ON;
            }
        }
        state & (FOR_LIFE | RECEIVED) | ANSWER_LAST | next
    }

    /// Takes a reset. An answer that was acknowledged in full is complete.
    /// Returns the new state.
    #[inline(always)]
    fn reset(&self, state: u32) -> u32 {
        match Phase::of(state) {
            Phase::Answering if state & DELIVERED != 0 => self.complete(state),
            Phase::Asking | Phase::Answering => self.env.count(Counter::RequestReset, 1),
            Phase::Idle | Phase::Overlapping => {}
        }
        state & FOR_LIFE
    }

    /// Whether the packet acknowledges all that the other end sent.
    #[inline(always)]
    fn acknowledges_all(&self) -> bool {
        let other = &self.at.entry.hot[self.at.direction.reverse().index()];
        self.head.has(flag::ACK) && self.head.ack == other.seq_end.load(Relaxed)
    }

    /// Makes the sample of a request and its complete answer.
    #[inline(always)]
    fn complete(&self, state: u32) {
        if state & WENT_ON != 0 {
            self.env.count(Counter::RequestInterrupted, 1);
            return;
        }
        let asked = self.request.asked_ns.load(Relaxed);
        let answered = self.request.answered_ns.load(Relaxed);
        let leg = if state & LOCAL_ASKS != 0 {
            Direction::FromLocal
        } else {
            Direction::ToLocal
        };
        // Either both ends' packets are on two CPUs at once, and the answer is
        // not this request's. Or the entry has become another flow's.
        if answered < asked || self.at.entry.fingerprint.load(Relaxed) != self.at.fingerprint {
            return;
        }
        let sample = RequestSample {
            now_ns: answered,
            rtt_ns: answered - asked,
            id: self.head.ack,
            leg: leg as u8,
        };
        self.env.request(self.at.entry, self.request, &sample);
    }
}

/// Whether the payload passes for the first time.
#[inline(always)]
fn is_new(course: u32) -> bool {
    course != SeqOrder::Nothing as u32 && course != SeqOrder::Again as u32
}

#[cfg(test)]
mod tests;
