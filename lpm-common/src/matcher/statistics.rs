//! The statistics that a flow entry keeps of each leg.

use core::sync::atomic::Ordering::Relaxed;

use crate::layout::DirectionSlots;

/// Adds a round trip, in units of 64 ns, to the leg's latest, smallest (of the
/// window) and smoothed figure. Smoothing is that of RFC 6298 section 2: the
/// first sample as it is, then an eighth of each difference.
#[inline(always)]
pub fn update(slots: &DirectionSlots, units: u32) {
    slots.last.store(units, Relaxed);
    if units < slots.window_min.load(Relaxed) {
        slots.window_min.store(units, Relaxed);
    }
    let smoothed = slots.smoothed.load(Relaxed);
    let next = if smoothed == u32::MAX {
        units
    } else {
        smoothed - smoothed / 8 + units / 8
    };
    slots.smoothed.store(next, Relaxed);
}
