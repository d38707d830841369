//! What becomes of the packets that a reflector gets, and how many of them.

use std::sync::atomic::{AtomicU64, Ordering};

/// What became of the packets.
#[derive(Debug, Default)]
pub struct Counts([AtomicU64; Fate::ALL.len()]);

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
    /// A TLV is malformed. It was answered with flag M (RFC 8972 section 4).
    Malformed,
    /// The HMAC of its TLVs is wrong or missing. It was answered with flag I (RFC 8972 section 4.8).
    Doubtful,
}

impl Fate {
    /// All of them.
    pub const ALL: [Self; 12] = [
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
            Self::Malformed => "with a malformed TLV",
            Self::Doubtful => "with TLVs without a valid HMAC",
        }
    }
}

impl Counts {
    pub(super) fn add(&self, fate: Fate) {
        if let Some(count) = self.0.get(fate as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many packets this became of.
    #[must_use]
    pub fn of(&self, fate: Fate) -> u64 {
        self.0
            .get(fate as usize)
            .map_or(0, |count| count.load(Ordering::Relaxed))
    }
}
