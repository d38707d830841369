//! The query entry: a query that waits for its answer.

use core::mem::size_of;

use crate::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

/// Time after which a DNS query counts as unanswered, nanoseconds. An answer
/// that comes later is late. The common resolvers give up, or try again, after
/// 5 s (resolv.conf(5), `timeout`).
pub const DNS_TIMEOUT_NS: u64 = 5_000_000_000;

/// Time after which an ICMP echo request counts as unanswered, nanoseconds. An
/// answer that comes later is late. ping(8) waits as long.
pub const ICMP_TIMEOUT_NS: u64 = 10_000_000_000;

/// [`QueryEntry::unanswered`] of a query that is not counted if it stays
/// unanswered.
pub const NOWHERE: u8 = u8::MAX;

/// Place in a row of DNS answers (the places before are those of [`Rcode`])
/// whose first word counts the queries that went unanswered.
pub const DNS_UNANSWERED: u8 = 7;

/// Place in a leg's half of a row of echoes whose first word counts the
/// requests that went unanswered. The round trips are in place 0.
pub const ICMP_UNANSWERED: u8 = 3;

/// An element of map `QUERIES`: an echo request or a DNS query seen at one
/// vantage. Two to a cache line.
#[derive(Debug, Default)]
#[repr(C, align(32))]
pub struct QueryEntry {
    /// Seeded hash of vantage, ends, method, leg and id; 0: the entry is free.
    /// Written last when an entry is made.
    pub fingerprint: AtomicU64,
    /// When the query passed the last time, `CLOCK_MONOTONIC` nanoseconds.
    pub sent_ns: AtomicU64,
    /// Histogram row; 0: there was none to be had.
    pub row: AtomicU32,
    /// A [`Phase`] in the low bits, and which earlier transmissions of the
    /// query may still be answered: [`crate::query::Outstanding`].
    pub state: AtomicU32,
    /// Interface of the vantage.
    pub ifindex: AtomicU32,
    /// A [`super::Method`].
    pub method: AtomicU8,
    /// Place in the row that counts the query if it stays unanswered, or
    /// [`NOWHERE`].
    pub unanswered: AtomicU8,
    /// When the query passed the first time since it was last answered or
    /// counted as unanswered: low 16 bits of the time in [`FIRST_UNIT_NS`]. For
    /// an announced message (DNS over TCP): the message's length, bytes.
    pub first: AtomicU16,
}

const _: () = assert!(size_of::<QueryEntry>() == 32);

/// Unit of [`QueryEntry::first`], nanoseconds. 16 bits are 68 s, more than
/// twice the longest timeout of a query.
pub const FIRST_UNIT_NS: u64 = 1 << 20;

/// What became of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// Never seen.
    Free = 0,
    /// Waits for its answer, or for being counted as unanswered.
    Open = 1,
    /// Answered.
    Answered = 2,
    /// Counted as unanswered.
    Counted = 3,
}

impl Phase {
    /// The phase in a [`QueryEntry::state`].
    #[inline(always)]
    #[must_use]
    pub const fn of(state: u32) -> Self {
        match state & 3 {
            0 => Self::Free,
            1 => Self::Open,
            2 => Self::Answered,
            _ => Self::Counted,
        }
    }
}

/// How long an answer may take, by number of the [`super::Method`].
#[inline(always)]
#[must_use]
pub const fn timeout_ns(method: u8) -> u64 {
    if method == super::Method::Dns as u8 {
        DNS_TIMEOUT_NS
    } else {
        ICMP_TIMEOUT_NS
    }
}

/// The response codes (RFC 1035 section 4.1.1) that are told apart. The number
/// is both the code and the place in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Rcode {
    /// No error.
    NoError = 0,
    /// The server did not understand the query.
    FormErr = 1,
    /// The server failed.
    ServFail = 2,
    /// The name does not exist.
    NxDomain = 3,
    /// The server does not do such queries.
    NotImp = 4,
    /// The server refuses.
    Refused = 5,
    /// Any other code of the header.
    Other = 6,
}

impl Rcode {
    /// All response codes, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::NoError,
        Self::FormErr,
        Self::ServFail,
        Self::NxDomain,
        Self::NotImp,
        Self::Refused,
        Self::Other,
    ];

    /// The response code with this number.
    #[must_use]
    pub fn from_raw(raw: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|rcode| *rcode as u8 == raw)
    }

    /// The value of the label `rcode`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoError => "NOERROR",
            Self::FormErr => "FORMERR",
            Self::ServFail => "SERVFAIL",
            Self::NxDomain => "NXDOMAIN",
            Self::NotImp => "NOTIMP",
            Self::Refused => "REFUSED",
            Self::Other => "other",
        }
    }
}
