//! The base packets of a session, in both modes (RFC 8762 sections 4.2 and 4.3, RFC 8972 section
//! 3).

use super::{ErrorEstimate, Timestamp, array, put};

/// Whether packets carry an HMAC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Without: base packets of 44 bytes.
    #[default]
    Unauthenticated,
    /// With: base packets of 112 bytes, of which the last 16 are the HMAC of the others.
    Authenticated,
}

impl Mode {
    /// Bytes of a base packet. TLVs begin behind it.
    #[must_use]
    pub const fn base(self) -> usize {
        match self {
            Self::Unauthenticated => 44,
            Self::Authenticated => 112,
        }
    }

    /// Bytes at the beginning of a packet that the base packet's HMAC covers; the HMAC follows
    /// (RFC 8762 section 4.4). None: there is no HMAC.
    #[must_use]
    pub const fn covered(self) -> Option<usize> {
        match self {
            Self::Unauthenticated => None,
            Self::Authenticated => Some(96),
        }
    }
}

/// Where the fields of a packet are: bytes from its beginning.
struct Fields {
    timestamp: usize,
    error: usize,
    session: usize,
    receive: usize,
    sender_sequence: usize,
    sender_timestamp: usize,
    sender_error: usize,
    ttl: usize,
}

/// RFC 8972 figures 1 and 2.
const UNAUTHENTICATED: Fields = Fields {
    timestamp: 4,
    error: 12,
    session: 14,
    receive: 16,
    sender_sequence: 24,
    sender_timestamp: 28,
    sender_error: 36,
    ttl: 40,
};

/// RFC 8972 figures 3 and 4.
const AUTHENTICATED: Fields = Fields {
    timestamp: 16,
    error: 24,
    session: 26,
    receive: 32,
    sender_sequence: 48,
    sender_timestamp: 64,
    sender_error: 72,
    ttl: 80,
};

impl Mode {
    const fn fields(self) -> &'static Fields {
        match self {
            Self::Unauthenticated => &UNAUTHENTICATED,
            Self::Authenticated => &AUTHENTICATED,
        }
    }
}

/// What a Session-Sender writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderPacket {
    /// Sequence number: 0 for a session's first packet.
    pub sequence: u32,
    /// When the packet was sent (T1), by the sender's clock.
    pub timestamp: Timestamp,
    /// How wrong the sender's clock may be.
    pub error: ErrorEstimate,
    /// The session's number (SSID). 0: the sender uses none.
    pub session: u16,
}

impl SenderPacket {
    /// Reads a packet. Bytes that must be zero are ignored (RFC 8762 section 4.2.1).
    ///
    /// None: the bytes end before the last field. A TWAMP-Light packet is read likewise: its
    /// session is what its padding begins with ([`session_number`] tells better).
    #[must_use]
    pub fn read(bytes: &[u8], mode: Mode) -> Option<Self> {
        let fields = mode.fields();
        Some(Self {
            sequence: u32::from_be_bytes(array(bytes, 0)?),
            timestamp: Timestamp(u64::from_be_bytes(array(bytes, fields.timestamp)?)),
            error: ErrorEstimate(u16::from_be_bytes(array(bytes, fields.error)?)),
            session: u16::from_be_bytes(array(bytes, fields.session)?),
        })
    }

    /// Writes the base packet; what must be zero becomes zero, the HMAC too. What does not fit into
    /// `bytes` is left out.
    pub fn write(&self, mode: Mode, bytes: &mut [u8]) {
        let fields = mode.fields();
        bytes
            .iter_mut()
            .take(mode.base())
            .for_each(|byte| *byte = 0);
        put(bytes, 0, &self.sequence.to_be_bytes());
        put(bytes, fields.timestamp, &self.timestamp.0.to_be_bytes());
        put(bytes, fields.error, &self.error.0.to_be_bytes());
        put(bytes, fields.session, &self.session.to_be_bytes());
    }
}

/// The number by which a reflector tells a sender's sessions apart: the SSID, or 0 if the packet is
/// one of TWAMP-Light, where padding stands in its place (RFC 5357 section 4.1.2). That padding is
/// random by default, and must not begin a session with each packet. A packet is of TWAMP-Light if what
/// is zero in one of STAMP is not.
///
/// None: the bytes end before the SSID.
#[must_use]
pub fn session_number(bytes: &[u8], mode: Mode) -> Option<u16> {
    let session = SenderPacket::read(bytes, mode)?.session;
    let zeros = UNAUTHENTICATED.receive..mode.base();
    let is_padding = mode == Mode::Unauthenticated
        && (bytes.iter().take(zeros.end).skip(zeros.start)).any(|byte| *byte != 0);
    Some(if is_padding { 0 } else { session })
}

/// What a Session-Reflector writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReflectorPacket {
    /// Sequence number: the sender's, or the reflector's own if it keeps state for the session.
    pub sequence: u32,
    /// When the answer was sent (T3), by the reflector's clock.
    pub timestamp: Timestamp,
    /// How wrong the reflector's clock may be, for `timestamp` and `receive`.
    pub error: ErrorEstimate,
    /// The session's number, as the sender wrote it.
    pub session: u16,
    /// When the packet was received (T2), by the reflector's clock.
    pub receive: Timestamp,
    /// The sender's sequence number, timestamp (T1) and estimate, as received.
    pub sender_sequence: u32,
    /// The sender's timestamp (T1), as received.
    pub sender_timestamp: Timestamp,
    /// The sender's Error Estimate, as received.
    pub sender_error: ErrorEstimate,
    /// TTL or hop limit with which the packet arrived.
    pub ttl: u8,
}

impl ReflectorPacket {
    /// Reads a packet. Bytes that must be zero are ignored.
    ///
    /// None: the bytes end before the last field.
    #[must_use]
    pub fn read(bytes: &[u8], mode: Mode) -> Option<Self> {
        let fields = mode.fields();
        let time = |at| array(bytes, at).map(|bytes| Timestamp(u64::from_be_bytes(bytes)));
        let error = |at| array(bytes, at).map(|bytes| ErrorEstimate(u16::from_be_bytes(bytes)));
        Some(Self {
            sequence: u32::from_be_bytes(array(bytes, 0)?),
            timestamp: time(fields.timestamp)?,
            error: error(fields.error)?,
            session: u16::from_be_bytes(array(bytes, fields.session)?),
            receive: time(fields.receive)?,
            sender_sequence: u32::from_be_bytes(array(bytes, fields.sender_sequence)?),
            sender_timestamp: time(fields.sender_timestamp)?,
            sender_error: error(fields.sender_error)?,
            ttl: *bytes.get(fields.ttl)?,
        })
    }

    /// Writes the base packet; what must be zero becomes zero, the HMAC too. What does not fit into
    /// `bytes` is left out.
    pub fn write(&self, mode: Mode, bytes: &mut [u8]) {
        let fields = mode.fields();
        let head = SenderPacket {
            sequence: self.sequence,
            timestamp: self.timestamp,
            error: self.error,
            session: self.session,
        };
        head.write(mode, bytes);
        put(bytes, fields.receive, &self.receive.0.to_be_bytes());
        put(
            bytes,
            fields.sender_sequence,
            &self.sender_sequence.to_be_bytes(),
        );
        put(
            bytes,
            fields.sender_timestamp,
            &self.sender_timestamp.0.to_be_bytes(),
        );
        put(
            bytes,
            fields.sender_error,
            &self.sender_error.0.to_be_bytes(),
        );
        put(bytes, fields.ttl, &[self.ttl]);
    }
}
