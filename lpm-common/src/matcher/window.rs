//! Which packets are believed: those with sequence and acknowledgment numbers
//! that the flow can have (RFC 9293 section 3.10.7.4, RFC 5961, RFC 7323
//! section 5.3).
//!
//! Anybody who can send to a pod under another's address can send any packet.
//! Who does not see the flow has to guess its numbers. A packet with numbers
//! out of the windows is counted and changes nothing. The ends know their exact
//! windows. An observer knows what has passed, and allows for what it did not
//! see.
//!
//! The numbers may truly be others: the ports are used again and neither end
//! nor beginning was seen, or the hook saw nothing for a while. Then both
//! directions say so: one acknowledges what the other one has sent. That makes
//! the flow start anew. One direction alone says nothing, because a forger can
//! send it.

use core::sync::atomic::Ordering::Relaxed;

use super::{FlowPacket, sequence, serial_gt, state};
use crate::{
    counter::Counter,
    env::Env,
    packet::{TcpHead, flag},
    table::{self, DATA_ON_SYN},
};

/// How far a number may be behind what has passed: the largest window (RFC 7323
/// section 2.3).
const BEHIND: u32 = 1 << 30;

/// How far a number may be ahead of what has passed: data that were lost before
/// they came here, or whose packets are late.
const AHEAD: u32 = 1 << 20;

/// How far the number of a packet without data may be behind, and that of a
/// RST: it was sent after what has passed, or a moment before.
const LATE: u32 = sequence::WINDOW;

/// Ticks that a TSval may be ahead of the last one: four seconds of the fastest
/// clock, which ticks each microsecond. For each second of silence
/// 2^[`PER_SECOND`] more.
const JUMP: u32 = 1 << 22;
const PER_SECOND: u32 = 20;

/// The part of [`JUMP`] that the fast path looks at: a TSval with any of these
/// bits ahead of the last one is left to [`admits`].
pub(super) const JUMP_BITS: u32 = !(JUMP - 1);

/// The fast path's windows for both numbers, as powers of two: what is outside
/// is left to [`admits`].
const FAST_SEQ: u32 = LATE;
const FAST_ACK: u32 = 1 << 27;

/// Bits that are set if one of the numbers is out of the fast path's windows.
/// Of a flow with one direction only, the acknowledgment number says nothing.
/// It has no jump: to the verifier each jump would be one more path.
#[inline(always)]
pub(super) fn outside(at: &FlowPacket<'_>, head: &TcpHead, other_state: u32) -> u32 {
    let own = &at.entry.hot[at.direction.index()];
    let other = &at.entry.hot[at.direction.reverse().index()];
    let seq = head.seq.wrapping_sub(own.seq_end.load(Relaxed));
    let ack = head.ack.wrapping_sub(other.seq_end.load(Relaxed));
    let seq = seq.wrapping_add(FAST_SEQ) & !(2 * FAST_SEQ - 1);
    let ack = ack.wrapping_add(FAST_ACK - FAST_SEQ) & !(FAST_ACK - 1);
    let known = other_state >> state::HAS_SEQ.trailing_zeros() & 1;
    seq | ack & known.wrapping_neg()
}

/// Whether a number is at most `behind` before and at most `ahead` after what
/// is known.
#[inline(always)]
const fn is_near(number: u32, known: u32, behind: u32, ahead: u32) -> bool {
    number.wrapping_sub(known).wrapping_add(behind) <= behind + ahead
}

/// Whether the packet is believed. `state` is its direction's.
#[inline(always)]
pub(super) fn admits<E: Env>(at: &FlowPacket<'_>, head: &TcpHead, env: &E, state: u32) -> bool {
    // What the fast path would believe needs no closer look. A TSval may still
    // jump.
    let plain = state & state::HAS_SEQ != 0 && !head.has_any(flag::SYN | flag::RST);
    if plain && !head.has_timestamp && outside(at, head, at.other_state()) == 0 {
        return true;
    }
    // The first packets decide. Nothing is measured from one direction.
    if table::is_unseen(at.entry, at.direction.reverse()) {
        return true;
    }
    let own = &at.entry.hot[at.direction.index()];
    let end = own.seq_end.load(Relaxed);
    let reverse = &at.entry.hot[at.direction.reverse().index()];
    let acknowledged = Acknowledged {
        number: head.ack,
        end: reverse.seq_end.load(Relaxed),
        known: reverse.state.load(Relaxed) & state::HAS_SEQ != 0,
        given: head.has(flag::ACK),
    };
    let known = state & state::HAS_SEQ != 0;
    if head.has(flag::RST) {
        return if known {
            is_near(head.seq, end, LATE, LATE) && acknowledged.is_near(BEHIND)
        } else {
            // The answer to a SYN has no number of its own (RFC 9293 section
            // 3.10.7.1).
            acknowledged.given && acknowledged.is_near(LATE)
        };
    }
    if !known {
        return answers(at, head, acknowledged);
    }
    if head.has(flag::SYN) {
        // A connection has one SYN from each end. Another one starts another
        // connection, which only `table::restarts` allows.
        return table::repeats(own, state, head) && acknowledged.is_near(LATE);
    }
    let late = if sequence::length(head) == 0 {
        LATE
    } else {
        BEHIND
    };
    is_near(head.seq, end, late, AHEAD)
        && acknowledged.is_near(BEHIND)
        && !jumps(at, head, env, state)
}

/// A packet's acknowledgment number, beside what it can acknowledge.
#[derive(Clone, Copy)]
struct Acknowledged {
    number: u32,
    /// The end of what the other direction has sent, if it is `known`.
    end: u32,
    known: bool,
    /// Whether the packet acknowledges anything.
    given: bool,
}

impl Acknowledged {
    #[inline(always)]
    const fn is_near(self, behind: u32) -> bool {
        !self.given || !self.known || is_near(self.number, self.end, behind, AHEAD)
    }
}

/// Whether the first packet of a direction fits what the other one has sent.
/// The answer to a SYN acknowledges the SYN alone, or the data that came with
/// it, too (RFC 7413).
#[inline(always)]
fn answers(at: &FlowPacket<'_>, head: &TcpHead, acknowledged: Acknowledged) -> bool {
    let reverse = at.direction.reverse().index();
    let shakes = at.other_state() & state::HANDSHAKE != 0;
    if !acknowledged.given || !acknowledged.known || !shakes {
        return acknowledged.is_near(BEHIND);
    }
    let stamp = at.entry.slots[reverse].stamps[0].load(Relaxed);
    let behind = acknowledged.end.wrapping_sub(head.ack);
    behind == 0 || (stamp >> 32) as u32 == head.ack || (stamp == 0 && behind <= DATA_ON_SYN)
}

/// Whether the TSval is further ahead of the last one than the sender's clock
/// can have gone on. A packet with exactly the next sequence number, or a
/// keep-alive, may bring any TSval: the clock may be another one by now.
#[inline(always)]
fn jumps<E: Env>(at: &FlowPacket<'_>, head: &TcpHead, env: &E, state: u32) -> bool {
    let own = &at.entry.hot[at.direction.index()];
    let timed = head.has_timestamp && state & (state::HAS_TSVAL | state::SEQ) == state::HAS_TSVAL;
    let newest = own.tsval.load(Relaxed);
    let far = newest.wrapping_add(JUMP);
    if !timed || !serial_gt(head.tsval, newest) || !serial_gt(head.tsval, far) {
        return false;
    }
    let seconds = head.tsval.wrapping_sub(far) >> PER_SECOND;
    let silent = env.since(at.entry.last_seen.load(Relaxed));
    let exact = own.seq_end.load(Relaxed).wrapping_sub(head.seq) <= 1;
    !exact && seconds.wrapping_mul(env.hz()) > silent
}

/// The mark of a word of [`crate::layout::FlowCold::stale`] that holds the end
/// of sequence of a packet that was not believed, in units of 16 bytes.
const CLAIM: u32 = 0xf << state::ROW_SHIFT;
const UNIT: u32 = 4;

/// Distance, in those units, within which packets that are not believed follow
/// each other.
const STREAM: u32 = 1 << (24 - UNIT);

/// `number` less what a word of claim holds, in its units, and `plus` more.
#[inline(always)]
const fn since(number: u32, claim: u32, plus: u32) -> u32 {
    (number >> UNIT).wrapping_sub(claim).wrapping_add(plus) & !CLAIM
}

/// Takes a packet that is not believed. True: the flow starts anew with it,
/// because it acknowledges what the other direction has sent, which was not
/// believed either. Otherwise the packet is counted, and its number is kept for
/// the other direction to acknowledge.
#[inline(always)]
pub(super) fn starts_anew<E: Env>(at: &FlowPacket<'_>, head: &TcpHead, env: &E) -> bool {
    const BEFORE: u32 = LATE >> UNIT;
    const AFTER: u32 = AHEAD >> UNIT;
    let words = &at.entry.cold.stale;
    let theirs = words[at.direction.reverse().index()].load(Relaxed);
    let acknowledges = head.has(flag::ACK) && !head.has(flag::RST);
    if acknowledges && theirs >= CLAIM && since(head.ack, theirs, BEFORE) <= BEFORE + AFTER {
        return true;
    }
    env.count(Counter::SkippedOutOfWindow, u64::from(at.wire.segments));
    let end = head.seq.wrapping_add(sequence::length(head));
    let own = &words[at.direction.index()];
    let before = own.load(Relaxed);
    // The first one of a stream is kept, so that acknowledgments come past it.
    let follows = before >= CLAIM && since(end, before, 0) < STREAM;
    if !head.has(flag::RST) && !follows {
        own.store(CLAIM | end >> UNIT, Relaxed);
        let state = at.state().load(Relaxed);
        at.state().store(state & !state::STALE, Relaxed);
    }
    false
}

#[cfg(test)]
mod tests;
