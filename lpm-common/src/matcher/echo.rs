//! Makes a sample of an echo: the code that all TCP methods share.

use core::sync::atomic::Ordering::Relaxed;

use super::{Clock, FlowPacket, state};
use crate::{
    env::{Env, RawSample, RttSample},
    layout::{DirectionSlots, Echo, FlowEntry, Method, SLOTS, UNIT_NS},
    packet::{TcpHead, flag},
};

/// The two segments that a prompt echo acknowledges passed at most this far
/// apart, or at most 1/[`PROMPT_SHARE`] of the sample.
const PROMPT_UNITS: u32 = 10_000 / UNIT_NS as u32;
const PROMPT_SHARE: u32 = 20;

/// Each sample that needs less than the gap shrinks it by this part of the
/// difference; a larger need grows it at once. So while the round trip swings,
/// the spacing stays that of the longest one, and slow stretches are not
/// sampled more rarely than fast ones.
const GAP_DECAY: u32 = 8;

/// A stamp whose echo has come; `i` is [`SLOTS`] or more if there is none. It
/// is no `Option`: what the compiler puts into the empty half of one looks to
/// the verifier like a read of uninitialised memory.
#[derive(Clone, Copy)]
pub(super) struct MatchedStamp {
    /// Number of the stamp's slot.
    pub(super) i: usize,
    /// When the stamp was made, in units of 64 ns.
    pub(super) time: u32,
    /// TSval, or end of sequence.
    pub(super) id: u32,
    /// How much was outstanding, in the unit that stamps are spaced by: ticks
    /// or KiB.
    pub(super) outstanding: u32,
    /// Bytes that the acknowledgment lacks to two full segments that no
    /// acknowledgment before it covered; 0: it lacks none.
    pub(super) behind_ack: u32,
}

impl MatchedStamp {
    /// No stamp.
    pub(super) const NONE: Self = Self {
        i: SLOTS,
        time: 0,
        id: 0,
        outstanding: 0,
        behind_ack: 0,
    };

    /// Hides the numbers from the verifier; see [`Env::hide_from_verifier`].
    /// The slot is left out: an index that the verifier does not know needs
    /// bounds, which kernels before 5.11 lose when it is put on the stack.
    #[inline(always)]
    pub(super) fn forget<E: Env>(&mut self, env: &E) {
        self.time = env.hide_from_verifier(self.time);
        self.id = env.hide_from_verifier(self.id);
        self.outstanding = env.hide_from_verifier(self.outstanding);
    }

    /// Whether there is a stamp.
    #[inline(always)]
    pub(super) fn is_some(self) -> bool {
        self.i < SLOTS
    }
}

/// Makes the sample of a stamp and its echo.
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

/// Makes the sample that a packet of this direction completes, and passes it
/// on.
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

/// Classifies how long the far end may have held the echo back.
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

/// Learns from a match how many ticks a round trip takes, and spaces the stamps
/// so that the slots last for a whole round trip.
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
