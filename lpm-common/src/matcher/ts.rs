//! Method `ts`: the first packet with a TSval is stamped if it carries payload.
//! The first packet the other way that echoes the TSval makes the sample (RFC
//! 7323).

use core::sync::atomic::Ordering::Relaxed;

use super::{
    Clock, EARLY, FlowPacket, course,
    echo::{self, MatchedStamp},
    sequence::SeqOrder,
    serial_gt,
    slots::{self, NONE, Token},
    state,
    window::{self, JUMP_BITS},
};
use crate::{
    counter::Counter,
    env::Env,
    layout::{DirectionSlots, FlowEntry, Method, SLOTS},
    packet::{Direction, TcpHead, flag},
};

/// Seconds of nothing but old TSvals after which they count as a new start (a
/// port used again whose SYN was not seen), not as reordering.
const RESYNC_SECONDS: u32 = 2;

/// Ticks that an echo may be ahead of the newest TSval, or a TSval behind it,
/// and still be believed. No clock ticks more often than each microsecond, and
/// after 200 s of silence everything begins anew.
pub(super) const TICKS: u32 = 1 << 28;

/// The state bits that decide whether slots hold TSvals: they do if of these
/// [`state::STAMPED`] alone is set.
const USABLE: u32 = state::STAMPED | state::SEQ | state::HANDSHAKE;

/// What the fast path compares a packet with timestamps with. Each word is
/// loaded once and kept: an atomic word is loaded again wherever the source
/// loads it.
#[derive(Clone, Copy)]
pub(super) struct Last {
    /// Newest TSval of the packet's direction.
    tsval: u32,
    /// The other direction's newest TSval and state.
    other_tsval: u32,
    other_state: u32,
}

impl Last {
    /// `tsval`: the direction's newest one.
    #[inline(always)]
    pub(super) fn with(at: &FlowPacket<'_>, tsval: u32) -> Self {
        let other = &at.entry.hot[at.direction.reverse().index()];
        Self {
            tsval,
            other_tsval: other.tsval.load(Relaxed),
            other_state: other.state.load(Relaxed),
        }
    }
}

/// Takes a packet with timestamps, at least one of which is new. The fast path
/// passes `last`, and no packet that [`is_odd`]. The slow path passes none, and
/// `next` is the result of [`super::prepare`].
#[inline(always)]
pub(super) fn packet<E: Env>(
    at: &FlowPacket<'_>,
    head: &TcpHead,
    (last, next): (Option<Last>, u32),
    env: &E,
    mut state: u32,
) {
    let (entry, direction) = (at.entry, at.direction);
    let own = &entry.hot[direction.index()].state;
    let mut clock = Clock::new(env);
    let mut found = MatchedStamp::NONE;
    if head.has(flag::ACK) {
        (found, state) = find_echo(at, head, (last, next), env, state);
    }
    let slot;
    (slot, state) = find_slot(at, head, (last, next), &mut clock, state);
    if slot != NONE {
        let gap = entry.slots[direction.index()].gap.load(Relaxed);
        let ahead = slots::spacing(if gap == 0 { 1 } else { gap }, head.tsval);
        let token = Token {
            id: head.tsval,
            next: head.tsval.wrapping_add(ahead),
        };
        state = slots::store(entry, direction, head, &mut clock, (slot, token), state);
    }
    // Stored before the sample is passed on, which may take long: another
    // packet of this direction may be on another CPU at the same time.
    own.store(state, Relaxed);
    if found.is_some() {
        echo::finish(at, head, &mut clock, (found, Method::Ts));
    }
}

/// Takes the TSecr of a packet with ACK, and the matching stamp out of its
/// slot. Returns the direction's new state, too.
#[inline(always)]
fn find_echo<E: Env>(
    at: &FlowPacket<'_>,
    head: &TcpHead,
    (last, next): (Option<Last>, u32),
    env: &E,
    state: u32,
) -> (MatchedStamp, u32) {
    let (entry, direction) = (at.entry, at.direction);
    let own = &entry.hot[direction.index()];
    let other = &entry.hot[direction.reverse().index()];
    let other_state = match last {
        Some(last) => last.other_state,
        None => other.state.load(Relaxed),
    };
    if other_state & state::HAS_TSVAL == 0 {
        return (MatchedStamp::NONE, state);
    }
    // Echoes are told apart by how far they lie behind the newest TSval. What
    // lies ahead of it was never sent by the other side, or has not passed
    // yet. It counts as no echo, and must not make true echoes look old.
    let newest = match last {
        Some(last) => last.other_tsval,
        None => other.tsval.load(Relaxed),
    };
    let behind = newest.wrapping_sub(head.tsecr);
    if last.is_none() && behind > i32::MAX.cast_unsigned() {
        let early = next & EARLY != 0 && behind.wrapping_neg() <= TICKS;
        if !early {
            env.count(Counter::ForeignEcho, 1);
            return (MatchedStamp::NONE, state);
        }
        // All that passed is acknowledged, so no later echo answers it. Nor
        // does one answer what this echo answers, see `edge`. An echo of what
        // did pass, before that comes, shows that it never will.
        slots::void(&entry.slots[direction.reverse().index()], env);
        own.tsecr.store(head.tsecr, Relaxed);
        return (MatchedStamp::NONE, state | state::HAS_TSECR);
    }
    if state & state::HAS_TSECR != 0 && behind >= newest.wrapping_sub(own.tsecr.load(Relaxed)) {
        return (MatchedStamp::NONE, state);
    }
    own.tsecr.store(head.tsecr, Relaxed);
    let state = state | state::HAS_TSECR;
    // The echo of a SYN-ACK belongs to the handshake (anchors, line 17).
    if head.has(flag::SYN) || other_state & USABLE != state::STAMPED {
        return (MatchedStamp::NONE, state);
    }
    let slots = &entry.slots[direction.reverse().index()];
    let found = take(slots, newest, behind, env);
    if !found.is_some() {
        env.count(Counter::UnmatchedEcho, 1);
    }
    (found, state)
}

/// Frees the slot of this TSval and all slots that the echo has passed.
#[inline(always)]
fn take<E: Env>(slots: &DirectionSlots, newest: u32, behind: u32, env: &E) -> MatchedStamp {
    let mut found = MatchedStamp::NONE;
    let mut passed: u32 = 0;
    for i in 0..SLOTS {
        let stamp = slots.stamps[i].load(Relaxed);
        let stamp_behind = newest.wrapping_sub((stamp >> 32) as u32);
        if stamp == 0 {
            // Nothing waits here.
        } else if stamp_behind == behind {
            slots.stamps[i].store(0, Relaxed);
            found = MatchedStamp {
                i,
                time: stamp as u32,
                id: newest.wrapping_sub(behind),
                outstanding: behind,
                ..MatchedStamp::NONE
            };
            found.forget(env);
        } else if stamp_behind > behind {
            slots.stamps[i].store(0, Relaxed);
            passed = env.hide_from_verifier(passed + 1);
        }
    }
    if passed > 0 {
        env.count(Counter::StampPassed, u64::from(passed));
    }
    found
}

/// Takes the packet's TSval. Returns the slot that the packet is to be stamped
/// in ([`NONE`]: none), and the direction's new state.
#[inline(always)]
fn find_slot<E: Env>(
    at: &FlowPacket<'_>,
    head: &TcpHead,
    (last, next): (Option<Last>, u32),
    clock: &mut Clock<'_, E>,
    state: u32,
) -> (usize, u32) {
    let (entry, direction) = (at.entry, at.direction);
    let own = &entry.hot[direction.index()];
    let newest = match last {
        Some(last) => last.tsval,
        None => own.tsval.load(Relaxed),
    };
    let distance = head.tsval.wrapping_sub(newest);
    let known = last.is_some() || state & state::HAS_TSVAL != 0;
    if !known && (state & state::STALE == 0 || distance == 0) {
        // For a flow seen from its SYN the first TSval is known. A flow first
        // seen in mid-stream may have sent it before. Either way it is no
        // edge.
        own.tsval.store(head.tsval, Relaxed);
        let state = state & !state::STALE | state::HAS_TSVAL;
        return (NONE, state::with_hold(state, head.tsval));
    }
    let state = slots::complete(entry, direction, head, clock, state);
    if distance == 0 {
        return (NONE, state & !state::STALE);
    }
    let older = last.is_none() && !serial_gt(head.tsval, newest);
    let anew = !known || older && has_moved(distance, course(next));
    if older && !anew {
        return (NONE, stale(entry, direction, head, clock.env, state));
    }
    own.tsval.store(head.tsval, Relaxed);
    let distance = if anew { u32::MAX } else { distance };
    let state = state & !state::STALE | state::HAS_TSVAL;
    if last.is_none() && was_echoed(entry, direction, newest, distance) {
        return (NONE, state::with_hold(state, head.tsval));
    }
    edge(at, head, clock, state, distance)
}

/// Whether the echo of a TSval, `distance` ticks after `newest`, came before
/// the TSval itself. An echo that comes now then answers something else.
#[inline(always)]
fn was_echoed(entry: &FlowEntry, direction: Direction, newest: u32, distance: u32) -> bool {
    let other = &entry.hot[direction.reverse().index()];
    let known = other.state.load(Relaxed) & (state::SEQ | state::HAS_TSECR);
    let ahead = other.tsecr.load(Relaxed).wrapping_sub(newest);
    known == state::HAS_TSECR && ahead <= TICKS && distance <= ahead
}

/// Whether a TSval that looks older is in fact newer. No packet is late by so
/// much, and this one follows the last one. The sender's clock went on by half
/// its range since then, and what it sent meanwhile had no timestamps.
#[inline(always)]
fn has_moved(distance: u32, course: u32) -> bool {
    course == SeqOrder::Next as u32 && distance.wrapping_neg() > TICKS
}

/// Whether a packet with timestamps needs more than the fast path does. It is
/// the first one, its TSval is older than the newest or far ahead of it, or its
/// echo is ahead of what has passed (or one was before). Or it belongs to
/// another method, or opens or resets the connection, or its numbers are not
/// near what has passed.
///
/// The test has no jump: to the verifier each jump would be one more path.
#[inline(always)]
pub(super) fn is_odd(at: &FlowPacket<'_>, head: &TcpHead, last: Last, state: u32) -> bool {
    const OTHERS: u32 = state::SEQ | state::HANDSHAKE | state::RST;
    const KNOWN: u32 = state::HAS_TSVAL | state::HAS_SEQ;
    const SIGN: u32 = 1 << 31;
    let other = &at.entry.hot[at.direction.reverse().index()];
    // The flag of the other direction is put where the sign is.
    let if_set = |bit: u32| last.other_state << (31 - bit.trailing_zeros());
    let older = head.tsval.wrapping_sub(last.tsval);
    let ahead = last.other_tsval.wrapping_sub(head.tsecr) & if_set(state::HAS_TSVAL);
    let before = last.tsval.wrapping_sub(other.tsecr.load(Relaxed)) & if_set(state::HAS_TSECR);
    let own = (state & (OTHERS | KNOWN)) ^ KNOWN;
    let others = last.other_state & OTHERS;
    let flags = u32::from(head.flags & (flag::SYN | flag::RST));
    let outside = window::outside(at, head, last.other_state);
    older & JUMP_BITS | (ahead | before) & SIGN | own | others | flags | outside != 0
}

/// Forgets the TSvals and echoes of a flow that was silent for very long. The
/// clocks may have gone on by half their range (RFC 7323 section 5.5; for one
/// that ticks each microsecond that is 36 minutes). So any TSval that comes
/// next is a new one. Sequence numbers stand still meanwhile.
#[inline(always)]
pub(super) fn forget<E: Env>(entry: &FlowEntry, env: &E) {
    for i in 0..2 {
        let state = &entry.hot[i].state;
        let before = state.load(Relaxed);
        if before & (state::HAS_TSVAL | state::SEQ) == state::HAS_TSVAL {
            let kept = before & !(state::METHOD | state::HAS_TSVAL);
            state.store(kept | state::STALE, Relaxed);
            entry.cold.stale[i].store(env.jiffies() & state::SINCE, Relaxed);
        }
    }
}

/// Takes a strictly newer TSval, `distance` ticks after the last one.
#[inline(always)]
fn edge<E: Env>(
    at: &FlowPacket<'_>,
    head: &TcpHead,
    clock: &mut Clock<'_, E>,
    state: u32,
    distance: u32,
) -> (usize, u32) {
    let (entry, direction) = (at.entry, at.direction);
    let too_early = distance < state::MAX_HOLD && state::holds(state, head.tsval);
    // A TSval whose first segment has no payload is never stamped: an echo
    // may answer that segment (anchors, line 16). Nor is that of a SYN.
    if head.payload == 0 || head.has(flag::SYN) {
        return (
            NONE,
            if too_early {
                state
            } else {
                state::with_hold(state, head.tsval)
            },
        );
    }
    // Stamps are spaced where slots are scarce. With no slot taken there is
    // nothing to spare, whatever an earlier, longer round trip taught.
    if too_early && !slots::all_free(&entry.slots[direction.index()]) {
        clock.env.count(Counter::StampSpaced, 1);
        return (NONE, state);
    }
    let slots = &entry.slots[direction.index()];
    let mut slot = slots::free(slots);
    if slot == NONE {
        slot = slots::overdue(slots, clock);
    }
    if slot == NONE {
        clock.env.count(Counter::StampSlotsFull, 1);
    }
    (slot, state::with_hold(state, head.tsval))
}

/// Takes a TSval older than the newest: reordered, or the start of something
/// new. Returns the direction's new state.
#[inline(always)]
fn stale<E: Env>(
    entry: &FlowEntry,
    direction: Direction,
    head: &TcpHead,
    env: &E,
    state: u32,
) -> u32 {
    let since = &entry.cold.stale[direction.index()];
    let now = env.jiffies();
    let before = since.load(Relaxed);
    if state & state::STALE == 0 || before > state::SINCE {
        since.store(now & state::SINCE, Relaxed);
        return state | state::STALE;
    }
    let run = env.since(before) & state::SINCE;
    if run <= env.hz().wrapping_mul(RESYNC_SECONDS + 1) {
        return state;
    }
    env.count(Counter::FlowResynced, 1);
    for slots in &entry.slots {
        slots::void(slots, env);
    }
    let other = &entry.hot[direction.reverse().index()].state;
    other.store(other.load(Relaxed) & state::CLOSING, Relaxed);
    entry.hot[direction.index()]
        .tsval
        .store(head.tsval, Relaxed);
    state::with_hold(state & state::CLOSING | state::HAS_TSVAL, head.tsval)
}
