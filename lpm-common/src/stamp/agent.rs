//! A TLV of our own, of the range for experiments (RFC 8972 section 5.1): what an agent knows of its
//! times and no other TLV says.
//!
//! The Timestamp Information TLV tells hardware from software, but not the kernel's software from a
//! program's. A sender that asks sends the magic number and zeros; a reflector that is not an agent
//! sets flag U.

use super::{array, put};

/// Bytes of the value.
pub const LENGTH: usize = 12;

/// What the value begins with: "LPM" and the layout's version.
pub(super) const MAGIC: [u8; 4] = *b"LPM\x01";

/// Where a time comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StampSource {
    /// There is no time.
    #[default]
    None,
    /// The network card.
    Hardware,
    /// The kernel.
    Kernel,
    /// The program.
    User,
}

impl StampSource {
    const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Hardware,
            2 => Self::Kernel,
            3 => Self::User,
            _ => Self::None,
        }
    }
}

/// What a reflector that is an agent says of its times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentInfo {
    /// Where T2 of this packet comes from.
    pub receive: StampSource,
    /// Where the time in the Follow-Up Telemetry TLV comes from.
    pub previous: StampSource,
    /// The number of the clock: another one after it was set or left its rate, cut to 16 bits. Times
    /// of packets with different numbers are of different clocks. An odd number says that the change
    /// was just seen: the packet's times may be of either clock.
    pub clock_changes: u16,
    /// Most by which the clock drifts, in parts per billion.
    pub drift: u32,
}

impl AgentInfo {
    /// The value of the TLV that asks for the information.
    #[must_use]
    pub const fn question() -> [u8; LENGTH] {
        let [a, b, c, d] = MAGIC;
        [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0]
    }

    /// Whether a value asks for the information, or has it.
    pub(super) fn is_one(value: &[u8]) -> bool {
        value.len() == LENGTH && value.starts_with(&MAGIC)
    }

    pub(super) fn write(self, value: &mut [u8]) {
        put(value, 4, &[self.receive as u8, self.previous as u8]);
        put(value, 6, &self.clock_changes.to_be_bytes());
        put(value, 8, &self.drift.to_be_bytes());
    }

    /// Reads the value of an answer. None: the value is not an agent's.
    pub(super) fn read(value: &[u8]) -> Option<Self> {
        if !Self::is_one(value) {
            return None;
        }
        let [receive, previous] = array(value, 4)?;
        Some(Self {
            receive: StampSource::from_byte(receive),
            previous: StampSource::from_byte(previous),
            clock_changes: u16::from_be_bytes(array(value, 6)?),
            drift: u32::from_be_bytes(array(value, 8)?),
        })
    }
}
