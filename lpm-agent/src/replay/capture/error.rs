//! Errors of a capture.

use std::io;

use super::super::link;

/// Why a capture cannot be read, or not to its end. What was read before stays valid.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file, or the pipe, cannot be read.
    #[error("cannot be read at byte {offset}: {source}")]
    Io {
        /// Offset of the error in the uncompressed file, bytes.
        offset: u64,
        /// The system's error.
        source: io::Error,
    },
    /// The file has none of the formats.
    #[error("is not a pcap or pcapng file: it begins with {begins}; {remedy}")]
    NotACapture {
        /// First bytes of the file, in hexadecimal, or that there are none.
        begins: String,
        /// Remedy for the user.
        remedy: &'static str,
    },
    /// The file ends within a record.
    #[error(
        "is truncated: the record at byte {offset} needs {need} bytes and {have} are left; \
         everything before it was used"
    )]
    Truncated {
        /// Offset of the record in the uncompressed file, bytes.
        offset: u64,
        /// Fewest bytes that the record needs.
        need: u64,
        /// Bytes that are left.
        have: u64,
    },
    /// Makes the error for a record that contradicts itself or the format.
    #[error(
        "is corrupt at byte {offset}: {what}; everything before it was used, and nothing after it \
         can be read"
    )]
    Corrupt {
        /// Offset of the record in the uncompressed file, bytes.
        offset: u64,
        /// The contradiction.
        what: String,
    },
    /// The link type is not read.
    #[error(
        "has packets of link type {number} ({}), which lpm does not read; {}",
        link::name(*.number),
        link::REMEDY
    )]
    LinkType {
        /// Number of the link type, as in the registry at tcpdump.org.
        number: u16,
    },
}

impl CaptureError {
    /// Makes the error for a record that contradicts itself or the format.
    pub(super) fn corrupt(offset: u64, what: impl Into<String>) -> Self {
        Self::Corrupt {
            offset,
            what: what.into(),
        }
    }
}
