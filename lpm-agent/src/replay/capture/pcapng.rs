//! The newer capture format, pcapng: sections of blocks, any number of interfaces.
//!
//! <https://datatracker.ietf.org/doc/draft-ietf-opsawg-pcapng/>

use std::io::Read;

use pcap_parser::{
    InterfaceDescriptionBlock, OptionCode, parse_interfacedescriptionblock_be,
    parse_interfacedescriptionblock_le, parse_sectionheaderblock,
};

use super::{
    CaptureError, Interface, Packet,
    buffer::{Buffer, LONGEST},
};
use crate::text::{cut, plain_line};

/// Block type of a section header, in either byte order.
pub(super) const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
/// Block type of the obsolete packet block, which came before the enhanced one. It is equal but for
/// a shorter interface number, which shares its word with a count of drops.
const OBSOLETE_PACKET: u32 = 2;
/// Block type of a packet without a time.
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
/// Offset of a packet's bytes in its block, of either kind.
const PACKET_HEADER: usize = 28;
/// Most interfaces of a capture. More would be an attack on memory.
const MOST_INTERFACES: usize = 65_536;

/// Parser of the current section.
#[derive(Default)]
pub(super) struct PcapNg {
    big_endian: bool,
    /// Index of the section's first interface among all interfaces.
    first: usize,
    /// Clocks of the section's interfaces.
    clocks: Vec<Clock>,
    /// Number of packets that have no time.
    pub(super) untimed: u64,
}

/// Format of an interface's times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Clock {
    /// Number of ticks per second.
    per_second: u64,
    /// Seconds to add to each time.
    offset: i64,
}

/// Type and length of a block.
struct Frame {
    kind: u32,
    len: usize,
}

/// The fields before a packet's bytes.
struct Fields {
    interface: usize,
    /// Time of the packet, nanoseconds since 1970. None: outside the years 1970 to 2554.
    time_ns: Option<u64>,
    captured: usize,
    len: u32,
}

impl PcapNg {
    /// The next packet. None: the capture has ended. Interfaces met on the way are added.
    pub(super) fn next<'w, R: Read>(
        &mut self,
        window: &'w mut Buffer<R>,
        interfaces: &mut Vec<Interface>,
    ) -> Result<Option<Packet<'w>>, CaptureError> {
        loop {
            let Some(frame) = self.frame(window)? else {
                return Ok(None);
            };
            match frame.kind {
                SECTION => self.section(window, &frame, interfaces.len())?,
                INTERFACE => self.interface(window, &frame, interfaces)?,
                ENHANCED_PACKET | OBSOLETE_PACKET => {
                    let fields = self.fields(window, &frame)?;
                    if let Some(time_ns) = fields.time_ns {
                        window.pass(frame.len);
                        let behind = frame.len - PACKET_HEADER - fields.captured;
                        return Ok(Some(Packet {
                            interface: fields.interface,
                            time_ns,
                            data: window.passed(behind, fields.captured),
                            len: fields.len,
                        }));
                    }
                    self.untimed += 1;
                }
                SIMPLE_PACKET => self.untimed += 1,
                _ => {}
            }
            window.pass(frame.len);
        }
    }

    fn u32(&self, bytes: &[u8]) -> u32 {
        let bytes = bytes.first_chunk().copied().unwrap_or_default();
        if self.big_endian {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        }
    }

    fn u16(&self, bytes: &[u8]) -> u16 {
        let bytes = bytes.first_chunk().copied().unwrap_or_default();
        if self.big_endian {
            u16::from_be_bytes(bytes)
        } else {
            u16::from_le_bytes(bytes)
        }
    }

    /// Finds the next block, and reads the whole of it into the window.
    fn frame<R: Read>(&mut self, window: &mut Buffer<R>) -> Result<Option<Frame>, CaptureError> {
        if window.want(12)? == 0 {
            return Ok(None);
        }
        window.need(12)?;
        let bytes = window.bytes();
        if self.u32(bytes) == SECTION {
            // A section's header has its byte order, which its length depends on.
            self.big_endian = match &bytes[8..12] {
                [0x1a, 0x2b, 0x3c, 0x4d] => true,
                [0x4d, 0x3c, 0x2b, 0x1a] => false,
                _ => {
                    let what = "a section header has no byte order mark";
                    return Err(CaptureError::corrupt(window.offset(), what));
                }
            };
        }
        let kind = self.u32(bytes);
        let len = usize::try_from(self.u32(&bytes[4..])).unwrap_or(usize::MAX);
        if !(12..=LONGEST).contains(&len) || !len.is_multiple_of(4) {
            let what = format!("a block says that it is {len} bytes long");
            return Err(CaptureError::corrupt(window.offset(), what));
        }
        window.need(len)?;
        let again = self.u32(&window.bytes()[len - 4..]);
        if usize::try_from(again) != Ok(len) {
            let what = format!("a block gives its length as {len} and as {again}");
            return Err(CaptureError::corrupt(window.offset(), what));
        }
        Ok(Some(Frame { kind, len }))
    }

    fn section<R: Read>(
        &mut self,
        window: &Buffer<R>,
        frame: &Frame,
        interfaces: usize,
    ) -> Result<(), CaptureError> {
        let unreadable = || CaptureError::corrupt(window.offset(), "a section header is malformed");
        let bytes = &window.bytes()[..frame.len];
        let (_, header) = parse_sectionheaderblock(bytes).map_err(|_| unreadable())?;
        if header.major_version != 1 {
            let what = format!(
                "version {}.{} of pcapng; only 1.x is known",
                header.major_version, header.minor_version
            );
            return Err(CaptureError::corrupt(window.offset(), what));
        }
        self.first = interfaces;
        self.clocks.clear();
        Ok(())
    }

    fn interface<R: Read>(
        &mut self,
        window: &Buffer<R>,
        frame: &Frame,
        interfaces: &mut Vec<Interface>,
    ) -> Result<(), CaptureError> {
        let corrupt = |what: &str| CaptureError::corrupt(window.offset(), what);
        let bytes = &window.bytes()[..frame.len];
        let parsed = if self.big_endian {
            parse_interfacedescriptionblock_be(bytes)
        } else {
            parse_interfacedescriptionblock_le(bytes)
        };
        let (_, mut block) =
            parsed.map_err(|_| corrupt("an interface description is malformed"))?;
        // The crate reads on to the block's end. Bytes there have no meaning (section 3.5).
        let options = &mut block.options;
        if let Some(end) = options.iter().position(|o| o.code == OptionCode::EndOfOpt) {
            options.truncate(end);
        }
        if interfaces.len() >= MOST_INTERFACES {
            return Err(corrupt("more than 65,536 interfaces"));
        }
        let clock = self
            .clock(&block)
            .ok_or_else(|| corrupt("an interface has an impossible resolution of time"))?;
        self.clocks.push(clock);
        let name = block.if_name().and_then(Result::ok);
        interfaces.push(Interface {
            // A terminal may be where the name goes.
            name: name
                .map(|name| cut(&plain_line(name)).to_owned())
                .filter(|name: &String| !name.is_empty()),
            link: u16::try_from(block.linktype.0).unwrap_or(u16::MAX),
        });
        Ok(())
    }

    /// The clock that an interface description defines. None: no clock ticks so.
    fn clock(&self, block: &InterfaceDescriptionBlock<'_>) -> Option<Clock> {
        let value = |code| {
            let option = block.options.iter().find(|option| option.code == code)?;
            option.as_bytes().ok()
        };
        let per_second = match value(OptionCode::IfTsresol) {
            None => 1_000_000,
            Some([power]) if power & 0x80 == 0 => 10_u64.checked_pow(u32::from(*power))?,
            Some([power]) => 1_u64.checked_shl(u32::from(power & 0x7f))?,
            Some(_) => return None,
        };
        let offset = match value(OptionCode::IfTsoffset) {
            None => 0,
            Some(bytes) => {
                let bytes = *bytes.first_chunk()?;
                if self.big_endian {
                    i64::from_be_bytes(bytes)
                } else {
                    i64::from_le_bytes(bytes)
                }
            }
        };
        Some(Clock { per_second, offset })
    }

    /// Reads the fields before a packet's bytes.
    fn fields<R: Read>(&self, window: &Buffer<R>, frame: &Frame) -> Result<Fields, CaptureError> {
        let corrupt = |what: &str| CaptureError::corrupt(window.offset(), what);
        let unfit = || corrupt("a packet's lengths do not fit its block");
        let bytes = window.bytes().get(..frame.len).unwrap_or_default();
        // The block's length is repeated after the packet.
        let rest = bytes.get(8..PACKET_HEADER + 4).ok_or_else(unfit)?;
        let word = |at: usize| self.u32(&rest[at..]);
        let captured = usize::try_from(word(12)).unwrap_or(usize::MAX);
        if captured > frame.len - PACKET_HEADER - 4 {
            return Err(unfit());
        }
        let id = match frame.kind {
            OBSOLETE_PACKET => u32::from(self.u16(rest)),
            _ => word(0),
        };
        let id = usize::try_from(id).unwrap_or(usize::MAX);
        let clock = self
            .clocks
            .get(id)
            .ok_or_else(|| corrupt("a packet names an interface that the section does not have"))?;
        Ok(Fields {
            interface: self.first + id,
            time_ns: clock.nanos(u64::from(word(4)) << 32 | u64::from(word(8))),
            captured,
            len: word(16).max(word(12)),
        })
    }
}

impl Clock {
    /// Converts ticks to nanoseconds since 1970. None: they do not fit.
    fn nanos(self, ticks: u64) -> Option<u64> {
        const SECOND: u64 = 1_000_000_000;
        let plain = match self.per_second {
            SECOND => ticks,
            1_000_000 => ticks.checked_mul(1000)?,
            per_second => {
                let nanos = u128::from(ticks) * u128::from(SECOND) / u128::from(per_second);
                u64::try_from(nanos).ok()?
            }
        };
        if self.offset == 0 {
            return Some(plain);
        }
        let offset = i128::from(self.offset) * i128::from(SECOND);
        u64::try_from(i128::from(plain) + offset).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_of_every_kind() {
        for (per_second, ticks, nanos) in [
            (1_000_000, 5, Some(5_000)),
            (1_000_000_000, 5, Some(5)),
            (1, 5, Some(5_000_000_000)),
            (1 << 20, 1 << 19, Some(500_000_000)),
            (10_000_000_000_000_000_000, 20_000_000_000, Some(2)),
            (1, u64::MAX, None),
            (1_000_000, u64::MAX, None),
        ] {
            let clock = Clock {
                per_second,
                offset: 0,
            };
            assert_eq!(clock.nanos(ticks), nanos, "{per_second}");
        }
        let later = Clock {
            per_second: 1_000_000,
            offset: 10,
        };
        assert_eq!(later.nanos(5), Some(10_000_005_000));
        let before = Clock {
            per_second: 1_000_000,
            offset: -1,
        };
        assert_eq!(before.nanos(5), None, "before 1970");
    }
}
