//! The request entry: a flow's latest request and its answer.

use core::mem::size_of;

use crate::atomic::{AtomicU32, AtomicU64};

/// An element of map `REQUESTS`: the latest request of the flow whose flow
/// entry has the same number. Two entries share a cache line.
#[derive(Debug, Default)]
#[repr(C, align(32))]
pub struct RequestEntry {
    /// The flow's fingerprint XOR the jiffies at its first packet. With any
    /// other value the entry belongs to a former flow.
    pub flow: AtomicU64,
    /// When the request's first byte passed, `CLOCK_MONOTONIC` nanoseconds.
    pub asked_ns: AtomicU64,
    /// When the latest byte of its answer passed, `CLOCK_MONOTONIC` nanoseconds.
    pub answered_ns: AtomicU64,
    /// Histogram row in the low 16 bits, the names' generation for which it was
    /// resolved in the high 16 bits.
    pub row: AtomicU32,
    /// A [`RequestPhase`] in the low 2 bits; the flags of
    /// `lpm_common::matcher::request` above.
    pub state: AtomicU32,
}

const _: () = assert!(size_of::<RequestEntry>() == 32);

/// Which end's turn it is to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RequestPhase {
    /// Neither end's: no request has begun.
    Idle = 0,
    /// The asking end's: its request is passing.
    Asking = 1,
    /// The answering end's: the answer is passing, or has passed.
    Answering = 2,
    /// Unknown: the ends do not take turns. A new request counts again once all
    /// that was sent is acknowledged.
    Overlapping = 3,
}

impl RequestPhase {
    /// The phase in a [`RequestEntry::state`].
    #[inline(always)]
    #[must_use]
    pub const fn of(state: u32) -> Self {
        match state & 3 {
            0 => Self::Idle,
            1 => Self::Asking,
            2 => Self::Answering,
            _ => Self::Overlapping,
        }
    }
}
