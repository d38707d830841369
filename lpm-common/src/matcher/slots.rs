//! The slots of a direction: they hold stamps until their echoes come, and the
//! time when the second full segment after each stamp passed.

use core::sync::atomic::Ordering::Relaxed;

use super::{Clock, state};
use crate::{
    counter::Counter,
    env::Env,
    layout::{DirectionSlots, FlowEntry, SLOTS},
    packet::{Direction, TcpHead},
};

/// Age from which on a stamp is void because nothing came back (units of 64 ns,
/// 137 s).
const VOID_UNITS: u32 = 1 << 31;

/// The number that stands for no slot.
pub(super) const NONE: usize = SLOTS;

/// The number of a slot without a stamp, or [`NONE`]. It is no loop: the
/// compiler would not unroll it.
#[inline(always)]
pub(super) fn free(slots: &DirectionSlots) -> usize {
    let [a, b, c] = [0, 1, 2].map(|i: usize| slots.stamps[i].load(Relaxed) == 0);
    if c {
        2
    } else if b {
        1
    } else if a {
        0
    } else {
        NONE
    }
}

/// Whether no stamp is outstanding.
#[inline(always)]
pub(super) fn all_free(slots: &DirectionSlots) -> bool {
    slots
        .stamps
        .iter()
        .fold(0, |all, stamp| all | stamp.load(Relaxed))
        == 0
}

/// The number of a slot whose stamp is too old for its echo to be timed, or
/// [`NONE`].
#[inline(always)]
pub(super) fn overdue<E: Env>(slots: &DirectionSlots, clock: &mut Clock<'_, E>) -> usize {
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

/// What identifies a stamp, and the token before which no further stamp is
/// made.
#[derive(Clone, Copy)]
pub(super) struct Token {
    /// TSval, or end of sequence.
    pub(super) id: u32,
    /// First token that may be stamped again, for [`state::with_hold`].
    pub(super) next: u32,
}

/// Stamps the packet. The word that makes the slot live is stored last. Returns
/// the direction's new state.
#[inline(always)]
pub(super) fn store<E: Env>(
    entry: &FlowEntry,
    direction: Direction,
    head: &TcpHead,
    clock: &mut Clock<'_, E>,
    (i, token): (usize, Token),
    state: u32,
) -> u32 {
    // `find` gives no other; said once more for the verifier.
    if i >= SLOTS {
        return state;
    }
    let slots = &entry.slots[direction.index()];
    clock.env.count(Counter::Stamped, 1);
    let full = full_segment(entry, direction, head, clock.env);
    let full = clock.env.hide_from_verifier(full);
    let pending = state::PENDING << i;
    let two = full.wrapping_mul(2);
    let complete = full != 0 && head.payload >= two;
    slots.targets[i].store(head.seq.wrapping_add(two), Relaxed);
    slots.second[i].store(if complete { 0 } else { state::NOT_COMPLETE }, Relaxed);
    put(slots, i, token.id, clock.units());
    let state = state::with_hold(state | state::STAMPED, token.next);
    let state = if full == 0 || complete {
        state & !pending
    } else {
        state | pending
    };
    clock.env.hide_from_verifier(state)
}

/// Stores the stamp, which makes the slot live.
#[inline(always)]
pub(super) fn put(slots: &DirectionSlots, i: usize, id: u32, units: u32) {
    let word = u64::from(id) << 32 | u64::from(units);
    slots.stamps[i].store(if word == 0 { 1 } else { word }, Relaxed);
}

/// Frees all slots, because their stamps can no longer be matched for certain.
#[inline(always)]
pub(super) fn void<E: Env>(slots: &DirectionSlots, env: &E) {
    let mut voided = 0;
    for stamp in &slots.stamps {
        // Each slot is looked at first, so that it is cleared as a whole word:
        // the compiler turns three plain stores into one call, which clears
        // bytes.
        if stamp.load(Relaxed) != 0 {
            stamp.store(0, Relaxed);
            voided += 1;
        }
        voided = env.hide_from_verifier(voided);
    }
    if voided > 0 {
        env.count(Counter::StampVoided, u64::from(voided));
    }
}

/// Ticks (or KiB) until the next stamp: a third of the round trip if more than
/// three are in it, give or take a quarter. The variation keeps stamps from
/// keeping step with a rhythm of the path.
#[inline(always)]
pub(super) fn spacing(gap: u32, id: u32) -> u32 {
    if gap <= 1 {
        return gap;
    }
    let random = id.wrapping_mul(0x9e37_79b1) >> 24;
    let spacing = gap - gap / 4 + ((gap / 2).wrapping_mul(random) >> 8);
    if spacing < state::MAX_HOLD {
        spacing
    } else {
        state::MAX_HOLD - 1
    }
}

/// Payload of a full segment on the wire, bytes; 0: unknown. `gso_size` says
/// it. Without GSO it is the MSS option of the SYNs less the option bytes (the
/// smaller MSS of the two seen, which bounds what this sender sends).
#[inline(always)]
fn full_segment<E: Env>(entry: &FlowEntry, direction: Direction, head: &TcpHead, env: &E) -> u32 {
    let known = &entry.slots[direction.index()].full_segment;
    let options = u32::from(head.options);
    let gso = env.segment_size();
    if gso != 0 {
        // The value is kept as an MSS, options included, as these may vary.
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

/// Notes, for each slot that waits for it, when the second full segment passed.
#[inline(always)]
pub(super) fn complete<E: Env>(
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
        let stamp = slots.stamps[i].load(Relaxed);
        if state & pending == 0 {
            // The slot waits for nothing.
        } else if stamp == 0 {
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
        state = clock.env.hide_from_verifier(state);
    }
    state
}
