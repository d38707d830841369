//! Method `seq`: a segment is stamped when it passes for the first time; the
//! first packet the other way that acknowledges all of it makes the sample
//! (RFC 9293 section 3.4, RFC 6298 section 3).
//!
//! Karn's rule applies, and more. Data that comes again, data that is missing
//! and acknowledgments that repeat void the stamps of their direction, because
//! a hole also delays the acknowledgments of segments that were sent once. A
//! stamp made while the hole is open is voided by the duplicate acknowledgment
//! that the hole draws (RFC 5681 section 4.2).

use core::sync::atomic::Ordering::Relaxed;

use super::{
    Clock, EARLY, FlowPacket, course,
    echo::{self, MatchedStamp},
    sequence::SeqOrder,
    serial_gt,
    slots::{self, NONE, Token},
    state,
};
use crate::{
    counter::Counter,
    env::Env,
    layout::{DirectionSlots, Method, SLOTS},
    packet::{TcpHead, flag},
};

/// Stamps are spaced by KiB of sequence numbers.
const KIB: u32 = 10;

/// The state bits that decide whether slots hold ends of sequence: they do if
/// the first two bits are set and the third is not.
const USABLE: u32 = state::STAMPED | state::SEQ | state::HANDSHAKE;

/// Takes a packet without timestamps, or whose timestamps are not used. `next`
/// is the result of [`super::prepare`].
#[inline(always)]
pub(super) fn packet<E: Env>(
    at: &FlowPacket<'_>,
    head: &TcpHead,
    next: u32,
    env: &E,
    mut state: u32,
) {
    let (entry, direction) = (at.entry, at.direction);
    let own = &entry.hot[direction.index()];
    let mut clock = Clock::new(env);
    let mut found = MatchedStamp::NONE;
    if head.has(flag::ACK) {
        (found, state) = acknowledge(at, head, next & EARLY != 0, env, state);
    }
    let slot;
    (slot, state) = find_slot(at, head, course(next), &mut clock, state);
    if slot != NONE {
        let end = own.seq_end.load(Relaxed);
        let gap = entry.slots[direction.index()].gap.load(Relaxed);
        let token = Token {
            id: end,
            next: (end >> KIB).wrapping_add(slots::spacing(gap, end)),
        };
        state = slots::store(entry, direction, head, &mut clock, (slot, token), state);
    }
    own.state.store(state, Relaxed);
    if found.is_some() {
        echo::finish(at, head, &mut clock, (found, Method::Seq));
    }
}

/// Starts to measure by sequence numbers in a direction that had timestamps, or
/// no method yet. Returns the direction's new state.
#[inline(always)]
pub(super) fn start<E: Env>(at: &FlowPacket<'_>, env: &E, state: u32) -> u32 {
    let (entry, direction) = (at.entry, at.direction);
    let slots = &entry.slots[direction.index()];
    if state & state::HANDSHAKE == 0 {
        slots::void(slots, env);
    }
    slots.gap.store(0, Relaxed);
    state::with_hold(state & !state::METHOD | state::SEQ, 0)
}

/// Returns a direction to timestamps, which its packets have after all. Returns
/// the direction's new state; the next packet is the first one that is measured
/// by them.
#[inline(always)]
pub(super) fn stop<E: Env>(at: &FlowPacket<'_>, env: &E, state: u32) -> u32 {
    let slots = &at.entry.slots[at.direction.index()];
    if state & state::HANDSHAKE == 0 {
        slots::void(slots, env);
    }
    slots.gap.store(0, Relaxed);
    state & !(state::METHOD | state::SEQ)
}

/// Takes an acknowledgment of data that has not passed yet: it voids the stamps
/// that it covers.
#[inline(always)]
pub(super) fn ahead<E: Env>(at: &FlowPacket<'_>, head: &TcpHead, env: &E) {
    let other = at.direction.reverse().index();
    let end = at.entry.hot[other].seq_end.load(Relaxed);
    if !head.has(flag::ACK) || !serial_gt(head.ack, end) {
        return;
    }
    if at.other_state() & state::SEQ != 0 {
        slots::void(&at.entry.slots[other], env);
    }
    let own = &at.entry.hot[at.direction.index()];
    own.tsecr.store(head.ack, Relaxed);
    let state = own.state.load(Relaxed);
    own.state.store(state | state::HAS_TSECR, Relaxed);
}

/// Takes the acknowledgment number, and the matching stamp out of its slot.
/// Returns the direction's new state, too.
#[inline(always)]
fn acknowledge<E: Env>(
    at: &FlowPacket<'_>,
    head: &TcpHead,
    early: bool,
    env: &E,
    state: u32,
) -> (MatchedStamp, u32) {
    let (entry, direction) = (at.entry, at.direction);
    let own = &entry.hot[direction.index()];
    let other = &entry.hot[direction.reverse().index()];
    let other_state = other.state.load(Relaxed);
    if other_state & state::HAS_SEQ == 0 {
        return (MatchedStamp::NONE, state);
    }
    let end = other.seq_end.load(Relaxed);
    let slots = &entry.slots[direction.reverse().index()];
    if serial_gt(head.ack, end) {
        if !early {
            env.count(Counter::ForeignEcho, 1);
        }
        return (MatchedStamp::NONE, state);
    }
    let last = own.tsecr.load(Relaxed);
    // A last acknowledgment beyond what has passed by now was of something
    // never sent.
    let first = state & state::HAS_TSECR == 0 || serial_gt(last, end);
    // The acknowledgment came twice without payload while something is
    // outstanding (RFC 5681 section 2; whether the window has changed is not
    // checked), or it names blocks beyond a hole (RFC 2018).
    let twice = !first && head.ack == last && head.payload == 0 && head.ack != end;
    if other_state & state::SEQ != 0 && (twice || head.sack) {
        slots::void(slots, env);
    }
    if !first && !serial_gt(head.ack, last) {
        return (MatchedStamp::NONE, state);
    }
    own.tsecr.store(head.ack, Relaxed);
    let state = state | state::HAS_TSECR;
    if other_state & USABLE != state::STAMPED | state::SEQ {
        return (MatchedStamp::NONE, state);
    }
    let mut found = take(slots, head.ack, end, env);
    // The bytes are counted from the acknowledgment before. Where that one
    // covered a part, what is new may be less than two full segments, and may
    // have waited.
    let two =
        u32::from(slots.full_segment.load(Relaxed)).saturating_sub(u32::from(head.options)) * 2;
    found.behind_ack = if first {
        u32::MAX
    } else {
        two.saturating_sub(head.ack.wrapping_sub(last))
    };
    (found, state)
}

/// Frees the slots of all that is acknowledged. The oldest stamp makes the
/// sample: it is the one that TSecr would name (RFC 7323 section 4.3).
#[inline(always)]
fn take<E: Env>(slots: &DirectionSlots, ack: u32, end: u32, env: &E) -> MatchedStamp {
    let mut found = MatchedStamp::NONE;
    let mut passed: u32 = 0;
    let mut oldest = 0;
    for i in 0..SLOTS {
        let stamp = slots.stamps[i].load(Relaxed);
        let id = (stamp >> 32) as u32;
        if stamp != 0 && !serial_gt(id, ack) {
            slots.stamps[i].store(0, Relaxed);
            let behind = end.wrapping_sub(id);
            if found.is_some() {
                passed = env.hide_from_verifier(passed + 1);
            }
            if !found.is_some() || behind > oldest {
                oldest = env.hide_from_verifier(behind);
                found = MatchedStamp {
                    i,
                    time: stamp as u32,
                    id,
                    outstanding: behind >> KIB,
                    ..MatchedStamp::NONE
                };
                found.forget(env);
            }
        }
    }
    if passed > 0 {
        env.count(Counter::StampPassed, u64::from(passed));
    }
    found
}

/// Returns the slot that the packet is to be stamped in ([`NONE`]: none), and
/// the direction's new state.
#[inline(always)]
fn find_slot<E: Env>(
    at: &FlowPacket<'_>,
    head: &TcpHead,
    course: u32,
    clock: &mut Clock<'_, E>,
    state: u32,
) -> (usize, u32) {
    let (entry, direction) = (at.entry, at.direction);
    let own = &entry.hot[direction.index()];
    let slots = &entry.slots[direction.index()];
    let end = own.seq_end.load(Relaxed);
    if head.has(flag::SYN) {
        return (NONE, state);
    }
    if course == SeqOrder::Hole as u32 || course == SeqOrder::Again as u32 {
        slots::void(slots, clock.env);
        return (NONE, state & !state::ANY_PENDING);
    }
    if head.payload == 0 || course != SeqOrder::Next as u32 {
        return (NONE, state);
    }
    let state = slots::complete(entry, direction, head, clock, state);
    if state::holds(state, end >> KIB) && !slots::all_free(slots) {
        clock.env.count(Counter::StampSpaced, 1);
        return (NONE, state);
    }
    let mut slot = slots::free(slots);
    if slot == NONE {
        slot = slots::overdue(slots, clock);
    }
    if slot == NONE {
        clock.env.count(Counter::StampSlotsFull, 1);
    }
    (slot, state)
}
