//! Captures: pcap and pcapng, in either byte order, compressed or not, as a stream.
//!
//! The crate `pcap-parser` knows the formats. This module makes them a stream of packets with one
//! buffer, and reports exactly where something is wrong.

mod buffer;
mod error;
mod input;
mod pcap;
mod pcapng;

use std::io::Read;

pub use error::CaptureError;
pub use input::{Input, Progress};

use self::{buffer::Buffer, pcap::Pcap, pcapng::PcapNg};

/// An interface where packets were captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Name of the interface. None: the capture has no name for it.
    pub name: Option<String>,
    /// Link type of the interface, as in the registry at tcpdump.org.
    pub link: u16,
}

/// A captured packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Index of the packet's interface.
    pub interface: usize,
    /// Time of the packet, nanoseconds since 1970, UTC.
    pub time_ns: u64,
    /// Captured bytes of the packet.
    pub data: &'a [u8],
    /// Length of the packet on the wire, bytes: at least that of `data`.
    pub len: u32,
}

/// A capture that is read from beginning to end.
pub struct Capture<R> {
    window: Buffer<R>,
    format: Format,
    interfaces: Vec<Interface>,
}

enum Format {
    Pcap(Pcap),
    PcapNg(PcapNg),
}

impl<R: Read> Capture<R> {
    /// Recognises the format, and reads the header.
    ///
    /// # Errors
    /// The source has none of the formats, its link type is not read, or it cannot be read at all.
    pub fn new(source: R) -> Result<Self, CaptureError> {
        let mut window = Buffer::new(source);
        window.want(4)?;
        let Some(magic) = window.bytes().first_chunk().copied() else {
            return Err(unknown(window.bytes()));
        };
        let mut interfaces = Vec::new();
        let format = if u32::from_le_bytes(magic) == pcapng::SECTION {
            Format::PcapNg(PcapNg::default())
        } else if pcap::is_magic(magic) {
            let (pcap, interface) = Pcap::begin(&mut window)?;
            interfaces.push(interface);
            Format::Pcap(pcap)
        } else {
            return Err(unknown(window.bytes()));
        };
        Ok(Self {
            window,
            format,
            interfaces,
        })
    }

    /// The next packet, and the interfaces so far. None: the capture has ended.
    ///
    /// # Errors
    /// The capture is truncated or corrupt there, or cannot be read further. It has ended then.
    pub fn next_packet(&mut self) -> Result<Option<(Packet<'_>, &[Interface])>, CaptureError> {
        let packet = match &mut self.format {
            Format::Pcap(pcap) => pcap.next(&mut self.window),
            Format::PcapNg(pcapng) => pcapng.next(&mut self.window, &mut self.interfaces),
        };
        Ok(packet?.map(|packet| (packet, self.interfaces.as_slice())))
    }

    /// Bytes read so far, uncompressed.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.window.offset()
    }

    /// Number of records whose part of a second is a second or more. It was carried over.
    #[must_use]
    pub fn carried(&self) -> u64 {
        match &self.format {
            Format::Pcap(pcap) => pcap.carried,
            Format::PcapNg(_) => 0,
        }
    }

    /// Number of packets that have no time (pcapng's simple packet blocks), or one outside the
    /// years 1970 to 2554. Nothing can be measured by them.
    #[must_use]
    pub fn untimed(&self) -> u64 {
        match &self.format {
            Format::Pcap(_) => 0,
            Format::PcapNg(pcapng) => pcapng.untimed,
        }
    }
}

fn unknown(bytes: &[u8]) -> CaptureError {
    let hex: Vec<String> = bytes
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let (begins, remedy) = match bytes {
        [] => ("nothing at all: it is empty".to_owned(), "give a capture"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => (
            hex.join(" "),
            "it is compressed by zstd: `zstd -dc FILE | lpm replay -`",
        ),
        [0xfd, b'7', b'z', b'X', ..] => (
            hex.join(" "),
            "it is compressed by xz: `xz -dc FILE | lpm replay -`",
        ),
        _ => (hex.join(" "), "`editcap -F pcapng` converts other formats"),
    };
    CaptureError::NotACapture { begins, remedy }
}
