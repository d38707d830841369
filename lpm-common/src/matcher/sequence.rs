//! Follows sequence numbers: what is new, what is missing, what comes again
//! (RFC 9293 section 3.4).
//!
//! They are followed for every TCP flow, so that retransmissions are counted.
//! The method `seq` relies on them.

use core::sync::atomic::Ordering::Relaxed;

use super::{FlowPacket, serial_gt, state};
use crate::{
    counter::Counter,
    env::Env,
    packet::{TcpHead, flag},
};

/// How a packet follows the ones before it in its direction.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum SeqOrder {
    /// It takes no sequence number, or is a keep-alive.
    Nothing = 0,
    /// The first one seen.
    First = 1,
    /// It starts where the last one ended.
    Next = 2,
    /// It skips sequence numbers: what lies between is lost or late.
    Hole = 3,
    /// Part of it passed before, or was skipped before.
    Again = 4,
}

/// How far from what has passed a sequence number is still taken for the
/// flow's: four times the longest packet (RFC 791 section 3.1). Packets that
/// are late by a CPU or a queue of a capture are nearer.
pub(super) const WINDOW: u32 = 1 << 18;

/// Number of sequence numbers that a packet takes: its payload, SYN and FIN.
#[inline(always)]
pub(super) fn length(head: &TcpHead) -> u32 {
    head.payload + u32::from(head.has(flag::SYN)) + u32::from(head.has(flag::FIN))
}

/// Notes the packet's end of sequence, and counts the packet if it comes again.
/// Returns its [`SeqOrder`] and the direction's new state.
#[inline(always)]
pub(super) fn note<E: Env>(
    at: &FlowPacket<'_>,
    head: &TcpHead,
    env: &E,
    state: u32,
) -> (SeqOrder, u32) {
    let own = &at.entry.hot[at.direction.index()].seq_end;
    let length = length(head);
    let next = head.seq.wrapping_add(length);
    if length == 0 {
        // An acknowledgment without data has the next sequence number (RFC
        // 9293 section 3.4). In a flow first seen in mid-stream nothing else
        // may tell it.
        if state & state::HAS_SEQ == 0 && head.has(flag::ACK) {
            own.store(next, Relaxed);
            return (SeqOrder::First, state | state::HAS_SEQ);
        }
        return (SeqOrder::Nothing, state);
    }
    if state & state::HAS_SEQ == 0 {
        own.store(next, Relaxed);
        return (SeqOrder::First, state | state::HAS_SEQ);
    }
    let end = own.load(Relaxed);
    if head.seq == end {
        own.store(next, Relaxed);
        return (SeqOrder::Next, state);
    }
    if serial_gt(head.seq, end) {
        own.store(next, Relaxed);
        return (SeqOrder::Hole, state);
    }
    if length <= 1 && head.payload == length && head.seq.wrapping_add(1) == end {
        // A keep-alive repeats the last byte, or something in its place, when
        // all is acknowledged (RFC 9293 section 3.8.4). For a flow measured by
        // timestamps nothing records what is acknowledged. For other flows,
        // what was not seen to be acknowledged counts as not acknowledged.
        let other = &at.entry.hot[at.direction.reverse().index()];
        let known =
            at.other_state() & (state::SEQ | state::HAS_TSECR) == state::SEQ | state::HAS_TSECR;
        let acknowledged = known && other.tsecr.load(Relaxed) == end;
        if acknowledged || state & state::SEQ == 0 {
            return (SeqOrder::Nothing, state);
        }
    }
    if serial_gt(next, end) {
        own.store(next, Relaxed);
    }
    again(at, head, env);
    (SeqOrder::Again, state)
}

/// Whether a packet answers what has not passed yet, and may be believed. With
/// the two directions on two CPUs, or in two queues of a capture, an answer can
/// come first.
///
/// A forger must know the position of both directions within [`WINDOW`] (as RFC
/// 5961 section 5 asks of the ends). A forged answer spoils only the
/// outstanding stamps: the next true answer is taken again.
///
/// `course` is the packet's own; a packet beyond a hole has told its number
/// itself.
#[inline(always)]
pub(super) fn may_be_early(at: &FlowPacket<'_>, head: &TcpHead, course: SeqOrder) -> bool {
    let own = &at.entry.hot[at.direction.index()];
    let other = &at.entry.hot[at.direction.reverse().index()];
    if course == SeqOrder::First || course == SeqOrder::Hole {
        return false;
    }
    // It acknowledges all that has passed, if not more.
    let ahead = head.ack.wrapping_sub(other.seq_end.load(Relaxed));
    let behind = own.seq_end.load(Relaxed).wrapping_sub(head.seq);
    let in_window = course == SeqOrder::Next || behind.wrapping_add(WINDOW) <= 2 * WINDOW;
    at.other_state() & state::HAS_SEQ != 0 && ahead <= WINDOW && in_window
}

/// Whether everything that has passed, the packet at hand included, was
/// acknowledged before it passed. The flow has no timestamps.
#[inline(always)]
pub(super) fn was_answered(at: &FlowPacket<'_>) -> bool {
    let other = &at.entry.hot[at.direction.reverse().index()];
    let end = at.entry.hot[at.direction.index()].seq_end.load(Relaxed);
    let known = at.other_state() & (state::SEQ | state::HAS_TSECR);
    let ahead = other.tsecr.load(Relaxed).wrapping_sub(end);
    known == state::SEQ | state::HAS_TSECR && ahead <= WINDOW
}

/// Counts a retransmission. A packet with an older TSval than others before it
/// was sent before them: it is late, not sent again.
fn again<E: Env>(at: &FlowPacket<'_>, head: &TcpHead, env: &E) {
    let newest = at.entry.hot[at.direction.index()].tsval.load(Relaxed);
    if head.has_timestamp
        && at.state().load(Relaxed) & (state::HAS_TSVAL | state::SEQ) == state::HAS_TSVAL
        && serial_gt(newest, head.tsval)
    {
        env.count(Counter::Reordered, u64::from(at.wire.segments));
    } else {
        env.retransmitted(at.entry, at.direction as u8, at.wire.segments);
    }
}
