//! From an echo to its sample: what all TCP methods share.

use core::sync::atomic::Ordering::Relaxed;

use super::{Clock, FlowPacket, state};
use crate::{
    env::{Env, RawSample, RttSample},
    layout::{DirectionSlots, Echo, FlowEntry, Method, SLOTS, UNIT_NS},
    packet::{TcpHead, flag},
};

/// A prompt echo's two segments passed at most this far apart, or
/// 1/[`PROMPT_SHARE`] of the sample.
const PROMPT_UNITS: u32 = 10_000 / UNIT_NS as u32;
const PROMPT_SHARE: u32 = 20;

/// The gap shrinks by this part of the difference with each sample, and grows
/// at once: while the round trip swings the spacing stays that of its longest,
/// so that slow stretches are not sampled more rarely than fast ones.
const GAP_DECAY: u32 = 8;

/// A stamp whose echo has come, if `i` is the number of a slot. (No `Option`:
/// what the compiler puts into its empty half the verifier takes for a read of
/// nothing.)
#[derive(Clone, Copy)]
pub(super) struct MatchedStamp {
    /// Its slot.
    pub(super) i: usize,
    /// When it was made, in units of 64 ns.
    pub(super) time: u32,
    /// TSval, or end of sequence.
    pub(super) id: u32,
    /// How much is outstanding, in what the slots are spaced by: ticks, or KiB.
    pub(super) outstanding: u32,
    /// Bytes that the acknowledgment lacks to two full segments that none
    /// before it covered; 0: it does not.
    pub(super) behind_ack: u32,
}

impl MatchedStamp {
    /// Nothing.
    pub(super) const NONE: Self = Self {
        i: SLOTS,
        time: 0,
        id: 0,
        outstanding: 0,
        behind_ack: 0,
    };

    /// See [`Env::hide_from_verifier`]. Not the slot: an index that the verifier does not
    /// know needs bounds, which kernels before 5.11 lose when it is put on the
    /// stack.
    #[inline(always)]
    pub(super) fn forget<E: Env>(&mut self, env: &E) {
        self.time = env.hide_from_verifier(self.time);
        self.id = env.hide_from_verifier(self.id);
        self.outstanding = env.hide_from_verifier(self.outstanding);
    }

    /// Whether there is one.
    #[inline(always)]
    pub(super) fn is_some(self) -> bool {
        self.i < SLOTS
    }
}

/// Makes the sample.
#[inline(always)]
pub(super) fn finish<E: Env>(
    at: &FlowPacket<'_>,
    head: &TcpHead,
    clock: &mut Clock<'_, E>,
    (found, method): (MatchedStamp, Method),
) {
    let slots = &at.entry.slots[at.direction.reverse().index()];
    if !found.is_some() {
        return;
    }
    let units = clock.units().wrapping_sub(found.time);
    space(slots, found.outstanding);
    // The entry may have become another flow's meanwhile.
    if at.entry.fingerprint.load(Relaxed) != at.fingerprint {
        return;
    }
    let raw = RawSample {
        now_ns: clock.now_ns(),
        units,
        id: found.id,
        ack: head.ack,
        slot: found.i as u8,
        leg: at.direction.reverse() as u8,
        method: method as u8,
        data: head.payload != 0 || head.has(flag::FIN),
        lacks: found.behind_ack != 0,
    };
    clock.env.raw(at.entry, &raw);
}

/// Hands out the sample that a packet of this direction completes.
#[inline(always)]
pub(super) fn sample<E: Env>(
    at: &FlowPacket<'_>,
    clock: &mut Clock<'_, E>,
    (units, id): (u32, u32),
    (echo, method): (Echo, Method),
) {
    // The entry may have become another flow's meanwhile.
    if at.entry.fingerprint.load(Relaxed) != at.fingerprint {
        return;
    }
    let sample = RttSample {
        now_ns: clock.now_ns(),
        units,
        id,
        leg: at.direction.reverse() as u8,
        echo: echo as u8,
        method: method as u8,
    };
    clock.env.sample(at.entry, &sample);
}

/// How long the far end may have sat on the echo.
///
/// TSecr names the earliest unacknowledged segment (RFC 7323 section 4.3), so
/// the echo waited at least for the last segment that made it due; a receiver
/// acknowledges every second full segment at once (RFC 5681 section 4.2).
#[inline(always)]
#[must_use]
pub fn classify(entry: &FlowEntry, raw: &RawSample) -> Echo {
    let slots = &entry.slots[usize::from(raw.leg & 1)];
    let i = usize::from(raw.slot);
    if raw.data {
        return Echo::Data;
    }
    // The second half is for the verifier.
    if raw.lacks || i >= SLOTS {
        return Echo::Lone;
    }
    let second = slots.second[i].load(Relaxed);
    if second == state::NOT_COMPLETE {
        return Echo::Lone;
    }
    let covers = raw
        .ack
        .wrapping_sub(slots.targets[i].load(Relaxed))
        .cast_signed()
        >= 0;
    let share = raw.units / PROMPT_SHARE;
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
