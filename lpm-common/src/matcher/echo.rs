//! Matching: the first packet that echoes a stamped TSval makes the sample.

use core::sync::atomic::Ordering::Relaxed;

use super::{Clock, state};
use crate::{
    counter::Counter,
    env::{Env, Matched},
    layout::{DirectionSlots, Echo, FlowEntry, Method, SLOTS, UNIT_NS},
    packet::{Direction, TcpHead, flag},
};

/// A prompt echo's two segments passed at most this far apart, or
/// 1/[`PROMPT_SHARE`] of the sample.
const PROMPT_UNITS: u32 = 10_000 / UNIT_NS as u32;
const PROMPT_SHARE: u32 = 20;

/// The gap shrinks by this part of the difference with each sample, and grows
/// at once: while the round trip swings the spacing stays that of its longest,
/// so that slow stretches are not sampled more rarely than fast ones.
const GAP_DECAY: u32 = 8;

/// A stamp whose echo has come, if `i` is the number of a slot.
#[derive(Clone, Copy)]
pub(super) struct Found {
    /// Its slot.
    i: usize,
    /// When it was made, in units of 64 ns.
    time: u32,
    /// How many ticks it lies behind the newest TSval.
    behind: u32,
}

impl Found {
    /// Nothing.
    pub(super) const NONE: Self = Self {
        i: SLOTS,
        time: 0,
        behind: 0,
    };

    /// Whether there is one.
    #[inline(always)]
    pub(super) fn is_some(self) -> bool {
        self.i < SLOTS
    }
}

/// Takes the TSecr of a packet with ACK, and its stamp out of its slot.
/// Returns the direction's new state too.
#[inline(always)]
pub(super) fn find<E: Env>(
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
    if head.has(flag::SYN) || other_state & state::STAMPED == 0 {
        return (Found::NONE, state);
    }
    let slots = &entry.slots[direction.reverse().index()];
    let found = take(slots, newest, behind, env);
    if !found.is_some() {
        env.count(Counter::UnmatchedEcho, 1);
    }
    (found, state)
}

/// Makes the sample.
#[inline(always)]
pub(super) fn finish<E: Env>(
    entry: &FlowEntry,
    fingerprint: u64,
    direction: Direction,
    head: &TcpHead,
    clock: &mut Clock<'_, E>,
    found: Found,
) {
    let slots = &entry.slots[direction.reverse().index()];
    if !found.is_some() {
        return;
    }
    let units = clock.units().wrapping_sub(found.time);
    let echo = classify(slots, found.i, head, units);
    space(slots, found.behind);
    // The entry may have become another flow's meanwhile.
    if entry.fingerprint.load(Relaxed) != fingerprint {
        return;
    }
    let matched = Matched {
        now_ns: clock.now_ns(),
        units,
        id: head.tsecr,
        leg: direction.reverse() as u8,
        echo: echo as u8,
        method: Method::Ts as u8,
    };
    clock.env.matched(entry, &matched);
}

/// Frees the slot of this TSval and all that the echo has passed.
#[inline(always)]
fn take<E: Env>(slots: &DirectionSlots, newest: u32, behind: u32, env: &E) -> Found {
    let mut found = Found::NONE;
    let mut passed = 0;
    for i in 0..SLOTS {
        let stamp = slots.stamps[i].load(Relaxed);
        if stamp == 0 {
            continue;
        }
        let stamp_behind = newest.wrapping_sub((stamp >> 32) as u32);
        if stamp_behind == behind {
            slots.stamps[i].store(0, Relaxed);
            found = Found {
                i,
                time: stamp as u32,
                behind,
            };
        } else if stamp_behind > behind {
            slots.stamps[i].store(0, Relaxed);
            passed += 1;
        }
    }
    if passed > 0 {
        env.count(Counter::StampPassed, passed);
    }
    found
}

/// How long the far end may have sat on the echo.
///
/// TSecr names the earliest unacknowledged segment (RFC 7323 section 4.3), so
/// the echo waited at least for the last segment that made it due; a receiver
/// acknowledges every second full segment at once (RFC 5681 section 4.2).
#[inline(always)]
fn classify(slots: &DirectionSlots, i: usize, head: &TcpHead, units: u32) -> Echo {
    if head.payload != 0 || head.has(flag::FIN) {
        return Echo::Data;
    }
    let second = slots.second[i].load(Relaxed);
    if second == state::NOT_COMPLETE {
        return Echo::Lone;
    }
    let covers = head
        .ack
        .wrapping_sub(slots.targets[i].load(Relaxed))
        .cast_signed()
        >= 0;
    let share = units / PROMPT_SHARE;
    let most = if share > PROMPT_UNITS {
        share
    } else {
        PROMPT_UNITS
    };
    if covers && state::decode_second(second) <= most {
        Echo::Prompt
    } else {
        Echo::Lone
    }
}

/// Learns from a match how many ticks a round trip takes, and spaces the
/// stamps so that the slots do for all of it.
#[inline(always)]
fn space(slots: &DirectionSlots, outstanding: u32) {
    let wanted = outstanding.div_ceil(SLOTS as u32);
    let gap = slots.gap.load(Relaxed);
    let next = if wanted >= gap {
        wanted
    } else {
        gap - (gap - wanted).div_ceil(GAP_DECAY)
    };
    if next != gap {
        slots.gap.store(next, Relaxed);
    }
}
