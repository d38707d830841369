//! The older capture format, pcap: one header, one link type, records.
//!
//! <https://datatracker.ietf.org/doc/draft-ietf-opsawg-pcap/>

use std::io::Read;

use pcap_parser::parse_pcap_header;

use super::{
    CaptureError, Interface, Packet,
    buffer::{Buffer, LONGEST},
};
use crate::replay::link;

const HEADER: usize = 24;
/// Largest snapshot length of tcpdump and Wireshark. Every capture may have records of this length.
const SNAPLEN: usize = 262_144;
const SECOND: u64 = 1_000_000_000;

const MICROS: u32 = 0xa1b2_c3d4;
const NANOS: u32 = 0xa1b2_3c4d;
/// Magic number of A. Kuznetsov's libpcap of the nineties. Each record's header has 8 more bytes
/// (interface, protocol, kind of packet), and times are in microseconds.
const MODIFIED: u32 = 0xa1b2_cd34;

/// Parser of the records.
pub(super) struct Pcap {
    big_endian: bool,
    record_header: usize,
    nanos_per_tick: u32,
    longest: usize,
    /// Number of records whose part of a second is a second or more.
    pub(super) carried: u64,
}

/// The header of a record.
struct Record {
    seconds: u32,
    ticks: u32,
    captured: usize,
    len: u32,
}

/// True for the first four bytes of a file of this format, in either byte order.
pub(super) fn is_magic(magic: [u8; 4]) -> bool {
    let either = [u32::from_le_bytes(magic), u32::from_be_bytes(magic)];
    either
        .iter()
        .any(|magic| matches!(*magic, MICROS | NANOS | MODIFIED))
}

/// Converts a file's header to the usual format, and tells whether it was of the modified one. The
/// crate knows that format in one byte order only.
fn plain(mut header: [u8; HEADER]) -> ([u8; HEADER], bool) {
    for (modified, plain) in [
        (MODIFIED.to_le_bytes(), MICROS.to_le_bytes()),
        (MODIFIED.to_be_bytes(), MICROS.to_be_bytes()),
    ] {
        if header[..4] == modified {
            header[..4].copy_from_slice(&plain);
            return (header, true);
        }
    }
    (header, false)
}

impl Pcap {
    /// Reads the header of the file.
    pub(super) fn begin<R: Read>(
        window: &mut Buffer<R>,
    ) -> Result<(Self, Interface), CaptureError> {
        window.need(HEADER)?;
        let unreadable = || CaptureError::corrupt(0, "the header cannot be read");
        let bytes = window.bytes().first_chunk().ok_or_else(unreadable)?;
        let (bytes, modified) = plain(*bytes);
        let (_, header) = parse_pcap_header(&bytes).map_err(|_| unreadable())?;
        if header.version_major != 2 {
            let version = format!(
                "version {}.{} of pcap; only 2.x is known",
                header.version_major, header.version_minor
            );
            return Err(CaptureError::corrupt(4, version));
        }
        // The upper bits describe a frame check sequence.
        let number = u16::try_from(header.network.0 & 0xffff).unwrap_or(u16::MAX);
        if !link::is_known(number) {
            return Err(CaptureError::LinkType { number });
        }
        let snaplen = usize::try_from(header.snaplen).unwrap_or(LONGEST);
        let pcap = Self {
            big_endian: header.is_bigendian(),
            record_header: if modified { 24 } else { 16 },
            nanos_per_tick: if header.is_nanosecond_precision() {
                1
            } else {
                1000
            },
            longest: snaplen.clamp(SNAPLEN, LONGEST),
            carried: 0,
        };
        window.pass(HEADER);
        Ok((
            pcap,
            Interface {
                name: None,
                link: number,
            },
        ))
    }

    /// The next record. None: the file has ended.
    pub(super) fn next<'w, R: Read>(
        &mut self,
        window: &'w mut Buffer<R>,
    ) -> Result<Option<Packet<'w>>, CaptureError> {
        if window.want(self.record_header)? == 0 {
            return Ok(None);
        }
        window.need(self.record_header)?;
        let record = self.record(window.bytes());
        let captured = record.captured;
        self.believe(captured, window.offset())?;
        window.need(self.record_header + captured)?;
        let nanos = u64::from(record.ticks) * u64::from(self.nanos_per_tick);
        // Some writers do not carry over. The lengths of such a record are valid, and so is its
        // time.
        self.carried += u64::from(nanos >= SECOND);
        window.pass(self.record_header + captured);
        Ok(Some(Packet {
            interface: 0,
            time_ns: u64::from(record.seconds) * SECOND + nanos,
            data: window.passed(0, captured),
            len: record.len.max(u32::try_from(captured).unwrap_or(u32::MAX)),
        }))
    }

    /// Reads the header of a record, of which 16 bytes are there.
    fn record(&self, bytes: &[u8]) -> Record {
        let word = |at: usize| {
            let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk());
            let bytes = bytes.copied().unwrap_or_default();
            if self.big_endian {
                u32::from_be_bytes(bytes)
            } else {
                u32::from_le_bytes(bytes)
            }
        };
        Record {
            seconds: word(0),
            ticks: word(4),
            captured: usize::try_from(word(8)).unwrap_or(usize::MAX),
            len: word(12),
        }
    }

    /// Refuses lengths that no capture has. They would take all memory, or lead astray.
    fn believe(&self, captured: usize, offset: u64) -> Result<(), CaptureError> {
        if captured <= self.longest {
            return Ok(());
        }
        let what = format!("a record says that {captured} bytes were captured");
        Err(CaptureError::corrupt(offset, what))
    }
}
