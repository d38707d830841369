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

/// No slot.
pub(super) const NONE: usize = SLOTS;

/// Takes the packet's TSval. Returns the slot that it shall have ([`NONE`]:
/// none) and the direction's new state. (No `Option`: what the compiler puts
/// into its empty half the verifier takes for a read of nothing.)
#[inline(always)]
pub(super) fn find<E: Env>(
    entry: &FlowEntry,
    direction: Direction,
    head: &TcpHead,
    clock: &mut Clock<'_, E>,
    state: u32,
) -> (usize, u32) {
    let own = &entry.hot[direction.index()];
    if head.has(flag::SYN) {
        let mss = &entry.cold.announced_mss[direction.index()];
        mss.store(head.mss, Relaxed);
    }
    if state & state::HAS_TSVAL == 0 {
        // A flow seen from its SYN knows its first TSval; one joined
        // mid-stream may have sent it before. Either way it is no edge.
        own.tsval.store(head.tsval, Relaxed);
        return (NONE, state::with_hold(state | state::HAS_TSVAL, head.tsval));
    }
    let state = complete(entry, direction, head, clock, state);
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
    if too_early && !all_free(&entry.slots[direction.index()]) {
        clock.env.count(Counter::StampSpaced, 1);
        return (NONE, state);
    }
    let slots = &entry.slots[direction.index()];
    let mut slot = free(slots);
    if slot == NONE {
        slot = overdue(slots, clock);
    }
    if slot == NONE {
        clock.env.count(Counter::StampSlotsFull, 1);
    }
    (slot, state::with_hold(state, head.tsval))
}

/// A slot without a stamp, or [`NONE`].
#[inline(always)]
fn free(slots: &DirectionSlots) -> usize {
    let mut slot = NONE;
    for i in 0..SLOTS {
        if slots.stamps[i].load(Relaxed) == 0 {
            slot = i;
        }
    }
    slot
}

/// Whether no stamp is outstanding.
#[inline(always)]
fn all_free(slots: &DirectionSlots) -> bool {
    slots
        .stamps
        .iter()
        .fold(0, |all, stamp| all | stamp.load(Relaxed))
        == 0
}

/// A slot whose stamp is too old for its echo to be timed, or [`NONE`].
#[inline(always)]
fn overdue<E: Env>(slots: &DirectionSlots, clock: &mut Clock<'_, E>) -> usize {
    let now = clock.units();
    let mut slot = NONE;
    for i in 0..SLOTS {
        if now.wrapping_sub(slots.stamps[i].load(Relaxed) as u32) > VOID_UNITS {
            slot = i;
        }
    }
    if slot != NONE {
        clock.env.count(Counter::StampExpired, 1);
    }
    slot
}

/// Stamps the packet; the word that makes the slot live comes last. Returns
/// the direction's new state.
#[inline(always)]
pub(super) fn store<E: Env>(
    entry: &FlowEntry,
    direction: Direction,
    head: &TcpHead,
    clock: &mut Clock<'_, E>,
    i: usize,
    state: u32,
) -> u32 {
    // `find` gives no other; said once more for the verifier.
    if i >= SLOTS {
        return state;
    }
    let slots = &entry.slots[direction.index()];
    clock.env.count(Counter::Stamped, 1);
    let full = full_segment(entry, direction, head, clock.env);
    let pending = state::PENDING << i;
    let two = full.wrapping_mul(2);
    let complete = full != 0 && head.payload >= two;
    slots.targets[i].store(head.seq.wrapping_add(two), Relaxed);
    slots.second[i].store(if complete { 0 } else { state::NOT_COMPLETE }, Relaxed);
    let word = u64::from(head.tsval) << 32 | u64::from(clock.units());
    slots.stamps[i].store(if word == 0 { 1 } else { word }, Relaxed);
    let next = head
        .tsval
        .wrapping_add(spacing(slots.gap.load(Relaxed), head.tsval));
    let state = state::with_hold(state | state::STAMPED, next);
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
        for stamp in &slots.stamps {
            stamp.store(0, Relaxed);
        }
    }
    let other = &entry.hot[direction.reverse().index()].state;
    other.store(other.load(Relaxed) & state::CLOSING, Relaxed);
    entry.hot[direction.index()]
        .tsval
        .store(head.tsval, Relaxed);
    state::with_hold(state & state::CLOSING | state::HAS_TSVAL, head.tsval)
}
