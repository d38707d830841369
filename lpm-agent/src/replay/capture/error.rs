//! What can be wrong with a capture.

use std::io;

use super::super::link;

/// Why a capture cannot be read, or not to its end. What was read before stays good.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file, or the pipe, cannot be read.
    #[error("cannot be read at byte {offset}: {source}")]
    Io {
        /// Where, bytes from the beginning, uncompressed.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// Not one of the formats.
    #[error("is not a pcap or pcapng file: it begins with {begins}; {remedy}")]
    NotACapture {
        /// Its first bytes, in hexadecimal, or that there are none.
        begins: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The file ends within a record.
    #[error(
        "is truncated: the record at byte {offset} needs {need} bytes and {have} are left; \
         everything before it was used"
    )]
    Truncated {
        /// Where the record begins, bytes from the beginning, uncompressed.
        offset: u64,
        /// Bytes that it needs at least.
        need: u64,
        /// Bytes that are there.
        have: u64,
    },
    /// A record that contradicts itself or the format.
    #[error(
        "is corrupt at byte {offset}: {what}; everything before it was used, and nothing after it \
         can be read"
    )]
    Corrupt {
        /// Where, bytes from the beginning, uncompressed.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// A link type that is not read.
    #[error(
        "has packets of link type {number} ({}), which lpm does not read; {}",
        link::name(*.number),
        link::REMEDY
    )]
    LinkType {
        /// As in the registry of link types at tcpdump.org.
        number: u16,
    },
}

impl CaptureError {
    /// A record that contradicts itself or the format.
    pub(super) fn corrupt(offset: u64, what: impl Into<String>) -> Self {
        Self::Corrupt {
            offset,
            what: what.into(),
        }
    }
}
