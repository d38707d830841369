//! Packets on their way.

use std::time::Instant;

use lpm_common::stamp::{Timestamp, reply::Reply};

use crate::active::{report::At, socket::Stamp};

/// A packet on its way.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) sequence: u32,
    /// The number on the socket. None: the kernel will not tell the time of sending.
    pub(super) packet: Option<u64>,
    /// None: the packet only fetches a time.
    pub(super) probe: Option<u32>,
    /// The number of the probe's train.
    pub(super) train: u32,
    pub(super) sent_at: Instant,
    /// Time of sending by the sender's monotonic clock, in nanoseconds.
    pub(super) monotonic: i64,
    pub(super) sent: Stamp,
    /// The timestamp that stands in the packet.
    pub(super) written: Timestamp,
    /// The number of this end's clock before the packet was sent.
    pub(super) changes: u16,
    pub(super) answer: Option<Answer>,
    pub(super) is_lost: bool,
}

/// The first answer to a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) reply: Reply,
    pub(super) received: Stamp,
    pub(super) at: Instant,
    /// When the program took it, by the same clock as `received`, in nanoseconds since 1970.
    pub(super) taken: i64,
    /// The byte of DSCP and ECN.
    pub(super) class: Option<u8>,
    pub(super) ttl: Option<u8>,
    pub(super) follow_up: Option<FollowedUp>,
    /// The number of this end's clock behind the answer.
    pub(super) changes: u16,
}

/// The kernel's time of sending, by a later answer of the reflector.
#[derive(Clone, Copy, Debug)]
pub(super) struct FollowedUp {
    pub(super) timestamp: Timestamp,
    pub(super) at: At,
    /// The number of the reflector's clock in that answer.
    pub(super) changes: Option<u16>,
}
