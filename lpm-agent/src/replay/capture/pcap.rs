//! The older format: one header, one link type, records.
//!
//! <https://datatracker.ietf.org/doc/draft-ietf-opsawg-pcap/>

use std::io::Read;

use pcap_parser::{
    LegacyPcapBlock, PcapError, nom, parse_pcap_frame, parse_pcap_frame_be,
    parse_pcap_frame_modified, parse_pcap_header,
};

use super::{
    CaptureError, Interface, Packet,
    window::{LONGEST, Window},
};
use crate::replay::link;

const HEADER: usize = 24;
/// Largest snapshot length of tcpdump and Wireshark: the least that any record may have.
const SNAPLEN: usize = 262_144;

type Parser = fn(&[u8]) -> nom::IResult<&[u8], LegacyPcapBlock<'_>, PcapError<&[u8]>>;

/// How the records are written.
pub(super) struct Pcap {
    parse: Parser,
    record_header: usize,
    nanos_per_tick: u32,
    longest: usize,
}

/// The first four bytes of a file of this format, in either byte order.
pub(super) fn is_magic(magic: [u8; 4]) -> bool {
    let either = [u32::from_le_bytes(magic), u32::from_be_bytes(magic)];
    either
        .iter()
        .any(|magic| matches!(magic, 0xa1b2_c3d4 | 0xa1b2_3c4d))
        || either[0] == 0xa1b2_cd34
}

impl Pcap {
    /// Reads the header.
    pub(super) fn begin<R: Read>(
        window: &mut Window<R>,
    ) -> Result<(Self, Interface), CaptureError> {
        window.need(HEADER)?;
        let (_, header) = parse_pcap_header(window.bytes())
            .map_err(|_| CaptureError::corrupt(0, "the header cannot be read"))?;
        if header.version_major != 2 {
            let version = format!(
                "version {}.{} of pcap; only 2.x is known",
                header.version_major, header.version_minor
            );
            return Err(CaptureError::corrupt(4, version));
        }
        // The upper bits tell of a frame check sequence.
        let number = u16::try_from(header.network.0 & 0xffff).unwrap_or(u16::MAX);
        if !link::is_known(number) {
            return Err(CaptureError::LinkType { number });
        }
        let (parse, record_header): (Parser, usize) = if header.is_modified_format() {
            (parse_pcap_frame_modified, 24)
        } else if header.is_bigendian() {
            (parse_pcap_frame_be, 16)
        } else {
            (parse_pcap_frame, 16)
        };
        let snaplen = usize::try_from(header.snaplen).unwrap_or(LONGEST);
        let pcap = Self {
            parse,
            record_header,
            nanos_per_tick: if header.is_nanosecond_precision() {
                1
            } else {
                1000
            },
            longest: snaplen.clamp(SNAPLEN, LONGEST),
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

    /// The next record; `None`: there is none.
    pub(super) fn next<'w, R: Read>(
        &self,
        window: &'w mut Window<R>,
    ) -> Result<Option<Packet<'w>>, CaptureError> {
        if window.want(self.record_header)? == 0 {
            return Ok(None);
        }
        window.need(self.record_header)?;
        let offset = window.offset();
        let (seconds, ticks, captured, len) = self.whole(window)?;
        let nanos = u64::from(ticks) * u64::from(self.nanos_per_tick);
        if nanos >= 1_000_000_000 {
            let what = format!("a record's time has {ticks} parts of a second, a second or more");
            return Err(CaptureError::corrupt(offset, what));
        }
        window.pass(self.record_header + captured);
        Ok(Some(Packet {
            interface: 0,
            time_ns: u64::from(seconds) * 1_000_000_000 + nanos,
            data: window.passed(0, captured),
            len: len.max(u32::try_from(captured).unwrap_or(u32::MAX)),
        }))
    }

    /// Has the whole record in the window: seconds, parts of a second, length captured, length.
    fn whole<R: Read>(
        &self,
        window: &mut Window<R>,
    ) -> Result<(u32, u32, usize, u32), CaptureError> {
        loop {
            match (self.parse)(window.bytes()) {
                Ok((_, record)) => {
                    let captured = record.data.len();
                    self.believe(captured, window.offset())?;
                    return Ok((record.ts_sec, record.ts_usec, captured, record.origlen));
                }
                Err(nom::Err::Incomplete(nom::Needed::Size(more))) => {
                    let wanted = window.bytes().len().saturating_add(more.get());
                    self.believe(wanted - self.record_header, window.offset())?;
                    window.need(wanted)?;
                }
                Err(_) => {
                    let what = "a record cannot be read";
                    return Err(CaptureError::corrupt(window.offset(), what));
                }
            }
        }
    }

    /// Refuses lengths that no capture has: they would take all memory, or lead astray.
    fn believe(&self, captured: usize, offset: u64) -> Result<(), CaptureError> {
        if captured <= self.longest {
            return Ok(());
        }
        let what = format!("a record says that {captured} bytes were captured");
        Err(CaptureError::corrupt(offset, what))
    }
}
