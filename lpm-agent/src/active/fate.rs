//! What becomes of the packets that a reflector gets, and how many of them.

use std::sync::atomic::{AtomicU64, Ordering};

use super::socket::Source;

/// What became of the packets, and where their times come from.
#[derive(Debug, Default)]
pub struct Counts {
    fates: [AtomicU64; Fate::ALL.len()],
    times: [[AtomicU64; 3]; 2],
}

/// A time that a reflector takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// T2: a packet arrives.
    Arrival,
    /// T3: the answer leaves. Only those are counted that are asked for.
    Sending,
}

/// What can become of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was answered.
    Answered,
    /// The sender is not allowed.
    NotAllowed,
    /// The sender sends too many.
    Rate,
    /// It is shorter than an answer.
    Short,
    /// It is longer than what a frame can hold.
    Long,
    /// It has no HMAC for which there is a key, or the HMAC is wrong.
    Forged,
    /// It was answered before.
    Replayed,
    /// The answer could not be sent.
    NotSent,
    /// It would begin a session, and there are too many. It got no answer: a copied number would
    /// look like a count.
    Crowded,
    /// The kernel took no time of its arrival. It was answered with a time of this program.
    NoReceiveTime,
    /// The sender asked for the time at which the answer was sent, and the kernel did not tell it.
    NoSendTime,
    /// A TLV is malformed. It was answered with flag M (RFC 8972 section 4).
    Malformed,
    /// The HMAC of its TLVs is wrong or missing. It was answered with flag I (RFC 8972 section 4.8).
    Doubtful,
}

impl Fate {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Answered,
        Self::NotAllowed,
        Self::Rate,
        Self::Short,
        Self::Long,
        Self::Forged,
        Self::Replayed,
        Self::NotSent,
        Self::Crowded,
        Self::NoReceiveTime,
        Self::NoSendTime,
        Self::Malformed,
        Self::Doubtful,
    ];

    /// What a person reads.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::NotAllowed => "from clients that are not allowed",
            Self::Rate => "above the client's rate",
            Self::Short => "too short to answer",
            Self::Long => "too long",
            Self::Forged => "without a valid HMAC",
            Self::Replayed => "seen before",
            Self::NotSent => "whose answer could not be sent",
            Self::Crowded => "of new sessions, of which there are too many",
            Self::NoReceiveTime => "without a kernel time of arrival",
            Self::NoSendTime => "whose answer has no kernel time of sending",
            Self::Malformed => "with a malformed TLV",
            Self::Doubtful => "with TLVs without a valid HMAC",
        }
    }
}

impl Counts {
    pub(crate) fn add(&self, fate: Fate) {
        if let Some(count) = self.fates.get(fate as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn add_time(&self, taken: Taken, source: Source) {
        if let Some(count) = self.time(taken, source) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many packets this became of.
    #[must_use]
    pub fn of(&self, fate: Fate) -> u64 {
        let count = self.fates.get(fate as usize);
        count.map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// How many of these times come from this source. Where the kernel tells no time, the source is
    /// [`Source::User`].
    #[must_use]
    pub fn times(&self, taken: Taken, source: Source) -> u64 {
        let count = self.time(taken, source);
        count.map_or(0, |count| count.load(Ordering::Relaxed))
    }

    fn time(&self, taken: Taken, source: Source) -> Option<&AtomicU64> {
        self.times.get(taken as usize)?.get(source as usize)
    }
}
