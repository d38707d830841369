//! Method `ts`: the first packet with a TSval is stamped if it carries payload;
//! the first packet the other way that echoes the TSval makes the sample
//! (RFC 7323).

use core::sync::atomic::Ordering::Relaxed;

use super::{
    At, Clock,
    echo::{self, Found},
    newer,
    slots::{self, NONE, Token},
    state,
};
use crate::{
    counter::Counter,
    env::Env,
    layout::{DirectionSlots, FlowEntry, Method, SLOTS},
    packet::{Direction, TcpHead, flag},
};

/// Seconds of nothing but old TSvals after which they are a new start (a port
/// used again whose SYN was not seen), not reordering.
const RESYNC_SECONDS: u32 = 2;

/// Of these, slots with TSvals in them have [`state::STAMPED`] only.
const USABLE: u32 = state::STAMPED | state::SEQ | state::HANDSHAKE;

/// A packet with timestamps, one of which is new.
#[inline(always)]
pub(super) fn packet<E: Env>(at: &At<'_>, head: &TcpHead, env: &E, mut state: u32) {
    let (entry, direction) = (at.entry, at.direction);
    let own = &entry.hot[direction.index()].state;
    let mut clock = Clock::new(env);
    let mut found = Found::NONE;
    if head.has(flag::ACK) {
        (found, state) = find_echo(entry, direction, head, env, state);
    }
    let slot;
    (slot, state) = find_slot(entry, direction, head, &mut clock, state);
    if slot != NONE {
        let gap = entry.slots[direction.index()].gap.load(Relaxed);
        let ahead = slots::spacing(if gap == 0 { 1 } else { gap }, head.tsval);
        let token = Token {
            id: head.tsval,
            next: head.tsval.wrapping_add(ahead),
        };
        state = slots::store(entry, direction, head, &mut clock, (slot, token), state);
    }
    // Before the sample goes its way, which may take long: another packet of
    // this direction may be on another CPU at the same time.
    own.store(state, Relaxed);
    if found.is_some() {
        echo::finish(at, head, &mut clock, (found, Method::Ts));
    }
}

/// Takes the TSecr of a packet with ACK, and its stamp out of its slot.
/// Returns the direction's new state too.
#[inline(always)]
fn find_echo<E: Env>(
    entry: &FlowEntry,
    direction: Direction,
    head: &TcpHead,
    env: &E,
    state: u32,
) -> (Found, u32) {
    let own = &entry.hot[direction.index()];
    let other = &entry.hot[direction.reverse().index()];
    let other_state = other.state.load(Relaxed);
    if other_state & state::HAS_TSVAL == 0 {
        return (Found::NONE, state);
    }
    // Echoes are told apart by how far they lie behind the newest TSval. What
    // lies ahead of it the other side never sent: no echo, and it must not
    // make true echoes look old.
    let newest = other.tsval.load(Relaxed);
    let behind = newest.wrapping_sub(head.tsecr);
    if behind > i32::MAX.cast_unsigned() {
        env.count(Counter::ForeignEcho, 1);
        return (Found::NONE, state);
    }
    if state & state::HAS_TSECR != 0 && behind >= newest.wrapping_sub(own.tsecr.load(Relaxed)) {
        return (Found::NONE, state);
    }
    own.tsecr.store(head.tsecr, Relaxed);
    let state = state | state::HAS_TSECR;
    // The echo of a SYN-ACK belongs to the handshake (anchors, line 17).
    if head.has(flag::SYN) || other_state & USABLE != state::STAMPED {
        return (Found::NONE, state);
    }
    let slots = &entry.slots[direction.reverse().index()];
    let found = take(slots, newest, behind, env);
    if !found.is_some() {
        env.count(Counter::UnmatchedEcho, 1);
    }
    (found, state)
}

/// Frees the slot of this TSval and all that the echo has passed.
#[inline(always)]
fn take<E: Env>(slots: &DirectionSlots, newest: u32, behind: u32, env: &E) -> Found {
    let mut found = Found::NONE;
    let mut passed: u32 = 0;
    for i in 0..SLOTS {
        let stamp = slots.stamps[i].load(Relaxed);
        let stamp_behind = newest.wrapping_sub((stamp >> 32) as u32);
        if stamp == 0 {
            // Nothing waits here.
        } else if stamp_behind == behind {
            slots.stamps[i].store(0, Relaxed);
            found = Found {
                i,
                time: stamp as u32,
                id: newest.wrapping_sub(behind),
                outstanding: behind,
                ..Found::NONE
            };
        } else if stamp_behind > behind {
            slots.stamps[i].store(0, Relaxed);
            passed += 1;
        }
        passed = env.forget(passed);
        found.forget(env);
    }
    if passed > 0 {
        env.count(Counter::StampPassed, u64::from(passed));
    }
    found
}

/// Takes the packet's TSval. Returns the slot that it shall have ([`NONE`]:
/// none) and the direction's new state.
#[inline(always)]
fn find_slot<E: Env>(
    entry: &FlowEntry,
    direction: Direction,
    head: &TcpHead,
    clock: &mut Clock<'_, E>,
    state: u32,
) -> (usize, u32) {
    let own = &entry.hot[direction.index()];
    if state & state::HAS_TSVAL == 0 {
        // A flow seen from its SYN knows its first TSval; one joined
        // mid-stream may have sent it before. Either way it is no edge.
        own.tsval.store(head.tsval, Relaxed);
        return (NONE, state::with_hold(state | state::HAS_TSVAL, head.tsval));
    }
    let state = slots::complete(entry, direction, head, clock, state);
    let newest = own.tsval.load(Relaxed);
    if head.tsval == newest {
        return (NONE, state & !state::STALE);
    }
    if !newer(head.tsval, newest) {
        return (NONE, stale(entry, direction, head, clock.env, state));
    }
    own.tsval.store(head.tsval, Relaxed);
    let distance = head.tsval.wrapping_sub(newest);
    edge(
        entry,
        direction,
        head,
        clock,
        state & !state::STALE,
        distance,
    )
}

/// A strictly newer TSval, `distance` ticks after the last one.
#[inline(always)]
fn edge<E: Env>(
    entry: &FlowEntry,
    direction: Direction,
    head: &TcpHead,
    clock: &mut Clock<'_, E>,
    state: u32,
    distance: u32,
) -> (usize, u32) {
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
    // Spacing is for slots that are scarce: with none taken there is nothing
    // to spare, whatever an earlier, longer round trip taught.
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

/// A TSval older than the newest: reordered, or the start of something new.
/// Returns the direction's new state.
#[inline(always)]
fn stale<E: Env>(
    entry: &FlowEntry,
    direction: Direction,
    head: &TcpHead,
    env: &E,
    state: u32,
) -> u32 {
    let since = &entry.cold.stale_since[direction.index()];
    let now = env.jiffies();
    if state & state::STALE == 0 {
        since.store(now, Relaxed);
        return state | state::STALE;
    }
    if now.wrapping_sub(since.load(Relaxed)) <= env.hz().wrapping_mul(RESYNC_SECONDS) {
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
