//! Stamping: the first packet with a TSval gets a slot.

use core::sync::atomic::Ordering::Relaxed;

use super::{Clock, newer, state};
use crate::{
    counter::Counter,
    env::Env,
    layout::{DirectionSlots, FlowEntry, SLOTS},
    packet::{Direction, TcpHead, flag},
};

/// Seconds of nothing but old TSvals after which they are a new start (a port
/// used again whose SYN was not seen), not reordering.
const RESYNC_SECONDS: u32 = 2;

/// Stamps in this age (units of 64 ns, 137 s) are void: nothing came back.
const VOID_UNITS: u32 = 1 << 31;

/// Takes the packet's TSval.
#[inline(always)]
pub(super) fn packet<E: Env>(
    entry: &FlowEntry,
    direction: Direction,
    head: &TcpHead,
    clock: &mut Clock<'_, E>,
) {
    let own = &entry.hot[direction.index()];
    let state = own.state.load(Relaxed);
    if head.has(flag::SYN) {
        let mss = &entry.cold.announced_mss[direction.index()];
        mss.store(head.mss, Relaxed);
    }
    if state & state::HAS_TSVAL == 0 {
        // A flow seen from its SYN knows its first TSval; one joined
        // mid-stream may have sent it before. Either way it is no edge.
        own.tsval.store(head.tsval, Relaxed);
        own.state.store(
            state::with_hold(state | state::HAS_TSVAL, head.tsval),
            Relaxed,
        );
        return;
    }
    let state = complete(entry, direction, head, clock, state);
    let newest = own.tsval.load(Relaxed);
    if head.tsval == newest {
        own.state.store(state & !state::STALE, Relaxed);
    } else if newer(head.tsval, newest) {
        own.tsval.store(head.tsval, Relaxed);
        let distance = head.tsval.wrapping_sub(newest);
        let state = edge(
            entry,
            direction,
            head,
            clock,
            state & !state::STALE,
            distance,
        );
        own.state.store(state, Relaxed);
    } else {
        stale(entry, direction, head, clock.env, state);
    }
}

/// A strictly newer TSval; `distance` ticks after the last one. Returns the
/// new state.
#[inline(always)]
fn edge<E: Env>(
    entry: &FlowEntry,
    direction: Direction,
    head: &TcpHead,
    clock: &mut Clock<'_, E>,
    state: u32,
    distance: u32,
) -> u32 {
    let too_early = distance < state::MAX_HOLD && state::holds(state, head.tsval);
    // A TSval whose first segment has no payload is never stamped: an echo
    // may answer that segment (anchors, line 16). Nor is that of a SYN.
    if head.payload == 0 || head.has(flag::SYN) {
        return if too_early {
            state
        } else {
            state::with_hold(state, head.tsval)
        };
    }
    if too_early {
        clock.env.count(Counter::StampSpaced, 1);
        return state;
    }
    let slots = &entry.slots[direction.index()];
    let now = clock.units();
    let mut free = SLOTS;
    for i in 0..SLOTS {
        let stamp = slots.stamps[i].load(Relaxed);
        if stamp == 0 {
            free = i;
        } else if now.wrapping_sub(stamp as u32) > VOID_UNITS {
            clock.env.count(Counter::StampExpired, 1);
            free = i;
        }
    }
    if free >= SLOTS {
        clock.env.count(Counter::StampSlotsFull, 1);
        return state::with_hold(state, head.tsval);
    }
    clock.env.count(Counter::Stamped, 1);
    let full = full_segment(entry, direction, head, clock.env);
    let state = store(slots, free, head, now, full, state);
    let next = head
        .tsval
        .wrapping_add(spacing(slots.gap.load(Relaxed), head.tsval));
    state::with_hold(state, next)
}

/// Fills a slot; the word that makes it live comes last.
#[inline(always)]
fn store(slots: &DirectionSlots, i: usize, head: &TcpHead, now: u32, full: u32, state: u32) -> u32 {
    let pending = state::PENDING << i;
    let two = full.wrapping_mul(2);
    let complete = full != 0 && head.payload >= two;
    slots.targets[i].store(head.seq.wrapping_add(two), Relaxed);
    slots.second[i].store(if complete { 0 } else { state::NOT_COMPLETE }, Relaxed);
    let word = u64::from(head.tsval) << 32 | u64::from(now);
    slots.stamps[i].store(if word == 0 { 1 } else { word }, Relaxed);
    let state = state | state::STAMPED;
    if full == 0 || complete {
        state & !pending
    } else {
        state | pending
    }
}

/// Ticks to the next stamp: a third of the round trip where there are more
/// than three ticks in it, give or take a quarter, so that stamps do not keep
/// step with whatever the path does in the same rhythm.
#[inline(always)]
fn spacing(gap: u32, tsval: u32) -> u32 {
    if gap <= 1 {
        return 1;
    }
    let random = tsval.wrapping_mul(0x9e37_79b1) >> 24;
    let spacing = gap - gap / 4 + ((gap / 2).wrapping_mul(random) >> 8);
    if spacing < state::MAX_HOLD {
        spacing
    } else {
        state::MAX_HOLD - 1
    }
}

/// Payload of a full segment on the wire, bytes; 0: not known. `gso_size`
/// says it; without, the MSS option of the SYNs less the option bytes (the
/// smaller of the two seen: it bounds what this sender sends).
#[inline(always)]
fn full_segment<E: Env>(entry: &FlowEntry, direction: Direction, head: &TcpHead, env: &E) -> u32 {
    let known = &entry.slots[direction.index()].full_segment;
    let options = u32::from(head.options);
    let gso = env.segment_size();
    if gso != 0 {
        // Kept as an MSS, options included, as these may vary.
        let mss = (gso + options) as u16;
        if known.load(Relaxed) != mss {
            known.store(mss, Relaxed);
        }
        return gso;
    }
    let mut mss = known.load(Relaxed);
    if mss == 0 {
        let [a, b] = &entry.cold.announced_mss;
        let (a, b) = (a.load(Relaxed), b.load(Relaxed));
        mss = if a == 0 || (b != 0 && b < a) { b } else { a };
        known.store(mss, Relaxed);
    }
    u32::from(mss).saturating_sub(options)
}

/// Notes for each slot that waits for it when its second full segment passed.
#[inline(always)]
fn complete<E: Env>(
    entry: &FlowEntry,
    direction: Direction,
    head: &TcpHead,
    clock: &mut Clock<'_, E>,
    mut state: u32,
) -> u32 {
    if state & state::ANY_PENDING == 0 || head.payload == 0 {
        return state;
    }
    let slots = &entry.slots[direction.index()];
    let end = head.seq.wrapping_add(head.payload);
    for i in 0..SLOTS {
        let pending = state::PENDING << i;
        if state & pending == 0 {
            continue;
        }
        let stamp = slots.stamps[i].load(Relaxed);
        if stamp == 0 {
            state &= !pending;
        } else if end
            .wrapping_sub(slots.targets[i].load(Relaxed))
            .cast_signed()
            >= 0
        {
            let units = clock.units().wrapping_sub(stamp as u32);
            slots.second[i].store(state::encode_second(units), Relaxed);
            state &= !pending;
        }
    }
    state
}

/// A TSval older than the newest: reordered, or the start of something new.
fn stale<E: Env>(entry: &FlowEntry, direction: Direction, head: &TcpHead, env: &E, state: u32) {
    let own = &entry.hot[direction.index()];
    let since = &entry.cold.stale_since[direction.index()];
    let now = env.jiffies();
    if state & state::STALE == 0 {
        since.store(now, Relaxed);
        own.state.store(state | state::STALE, Relaxed);
        return;
    }
    if now.wrapping_sub(since.load(Relaxed)) <= env.hz().wrapping_mul(RESYNC_SECONDS) {
        own.state.store(state, Relaxed);
        return;
    }
    env.count(Counter::FlowResynced, 1);
    for slots in &entry.slots {
        for stamp in &slots.stamps {
            stamp.store(0, Relaxed);
        }
    }
    let other = &entry.hot[direction.reverse().index()].state;
    other.store(other.load(Relaxed) & state::CLOSING, Relaxed);
    own.tsval.store(head.tsval, Relaxed);
    let fresh = state & state::CLOSING | state::HAS_TSVAL;
    own.state
        .store(state::with_hold(fresh, head.tsval), Relaxed);
}
