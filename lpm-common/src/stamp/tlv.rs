//! TLVs behind a base packet: flags, type, length, value (RFC 8972 section 4).

use super::{HMAC, put};

/// Bytes before a TLV's value.
pub const HEADER: usize = 4;

/// Flags of a TLV (RFC 8972 section 5.2).
pub mod flag {
    /// U: the reflector does not know the type. A sender sets it.
    pub const UNRECOGNIZED: u8 = 0x80;
    /// M: the reflector found the TLV malformed.
    pub const MALFORMED: u8 = 0x40;
    /// I: the reflector could not verify the HMAC.
    pub const INTEGRITY: u8 = 0x20;
}

/// Types of TLVs (RFC 8972 section 5.1).
pub mod kind {
    /// Bytes that only make the packet longer.
    pub const EXTRA_PADDING: u8 = 1;
    /// Asks for the addresses that the reflector saw.
    pub const LOCATION: u8 = 2;
    /// Asks how the reflector gets its timestamps.
    pub const TIMESTAMP_INFORMATION: u8 = 3;
    /// Asks for a DSCP in the answer, and for the DSCP and ECN that arrived.
    pub const CLASS_OF_SERVICE: u8 = 4;
    /// Carries counters of packets of other traffic.
    pub const DIRECT_MEASUREMENT: u8 = 5;
    /// Tells of a change of the access network.
    pub const ACCESS_REPORT: u8 = 6;
    /// Asks for the previous answer's time of sending.
    pub const FOLLOW_UP_TELEMETRY: u8 = 7;
    /// Protects the TLVs before it.
    pub const HMAC: u8 = 8;
    /// Asks an agent for more of its times ([`AgentInfo`](super::super::agent::AgentInfo)); of the
    /// range for experiments.
    pub const AGENT: u8 = 251;
}

/// Whether the value of a TLV may have this many bytes.
///
/// None: the type is not one of RFC 8972's.
#[must_use]
pub const fn length_is_valid(kind: u8, length: usize) -> Option<bool> {
    Some(match kind {
        kind::EXTRA_PADDING => true,
        kind::LOCATION => length >= 4,
        kind::TIMESTAMP_INFORMATION | kind::CLASS_OF_SERVICE | kind::ACCESS_REPORT => length == 4,
        kind::DIRECT_MEASUREMENT => length == 12,
        kind::FOLLOW_UP_TELEMETRY => length == 16,
        kind::HMAC => length == HMAC,
        _ => return None,
    })
}

/// A TLV in a row of TLVs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tlv<'a> {
    /// Bytes from the beginning of the row to the TLV.
    pub at: usize,
    /// [`flag`]s.
    pub flags: u8,
    /// A [`kind`].
    pub kind: u8,
    /// The value.
    pub value: &'a [u8],
}

/// The TLVs of a packet, in their order. An `Err` is the last item: the row ends within a TLV that
/// begins so many bytes from the row's beginning.
#[derive(Clone, Debug)]
pub struct Tlvs<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Tlvs<'a> {
    /// Reads a row of TLVs: the bytes behind the base packet.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }
}

impl<'a> Iterator for Tlvs<'a> {
    type Item = Result<Tlv<'a>, usize>;

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.at;
        let rest = self.bytes.get(at..).filter(|rest| !rest.is_empty())?;
        self.at = self.bytes.len();
        let Some((&[flags, kind, high, low], rest)) = rest.split_first_chunk() else {
            return Some(Err(at));
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let Some(value) = rest.get(..length) else {
            return Some(Err(at));
        };
        self.at = at + HEADER + length;
        Some(Ok(Tlv {
            at,
            flags,
            kind,
            value,
        }))
    }
}

/// Appends TLVs to a packet that a sender makes.
#[derive(Debug)]
pub struct Writer<'a> {
    bytes: &'a mut [u8],
    length: usize,
}

impl<'a> Writer<'a> {
    /// Appends to a packet of which `length` bytes are written.
    #[must_use]
    pub fn new(bytes: &'a mut [u8], length: usize) -> Self {
        Self { bytes, length }
    }

    /// Appends a TLV with flag U, as a sender must (RFC 8972 section 4).
    ///
    /// None: the packet has no room for it, or its length does not fit 16 bits. Nothing is written
    /// then.
    #[must_use]
    pub fn push(&mut self, kind: u8, value: &[u8]) -> Option<()> {
        let length = u16::try_from(value.len()).ok()?.to_be_bytes();
        let end = self.length + HEADER + value.len();
        let tlv = self.bytes.get_mut(self.length..end)?;
        put(tlv, 0, &[flag::UNRECOGNIZED, kind, length[0], length[1]]);
        put(tlv, HEADER, value);
        self.length = end;
        Some(())
    }

    /// Fills the packet up to `length` bytes with an Extra Padding TLV of zeros. A packet that lacks
    /// less than a TLV's header cannot be filled and stays as it is.
    #[must_use]
    pub fn pad(&mut self, length: usize) -> Option<()> {
        let Some(value) = length.checked_sub(self.length + HEADER) else {
            return Some(());
        };
        let size = u16::try_from(value).ok()?.to_be_bytes();
        let tlv = self.bytes.get_mut(self.length..length)?;
        tlv.fill(0);
        put(
            tlv,
            0,
            &[flag::UNRECOGNIZED, kind::EXTRA_PADDING, size[0], size[1]],
        );
        self.length = length;
        Some(())
    }

    /// Bytes of the packet so far.
    #[must_use]
    pub const fn length(&self) -> usize {
        self.length
    }
}
