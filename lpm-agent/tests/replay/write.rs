//! Captures made by hand, byte by byte: nothing here is shared with what reads them.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};

/// Link types.
pub(crate) const ETHERNET: u16 = 1;
pub(crate) const RAW: u16 = 101;

/// A packet to be written.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// Number of the interface.
    pub(crate) interface: u32,
    /// Nanoseconds since 1970.
    pub(crate) time_ns: u64,
    /// What was captured.
    pub(crate) data: Vec<u8>,
    /// Length on the wire, bytes.
    pub(crate) len: u32,
}

impl Record {
    /// A packet that was captured whole, at the first interface.
    pub(crate) fn whole(time_ns: u64, data: Vec<u8>) -> Self {
        let len = u32::try_from(data.len()).expect("a packet");
        Self {
            interface: 0,
            time_ns,
            data,
            len,
        }
    }
}

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// pcap, in micro- or nanoseconds.
    Pcap { nanos: bool },
    /// pcapng; `if_tsresol` and `if_tsoffset`, where they are given.
    PcapNg {
        resolution: Option<u8>,
        offset: Option<i64>,
    },
    /// pcap with 8 bytes more in each record's header, in microseconds.
    Modified,
    /// pcapng with the obsolete kind of packets, in nanoseconds.
    Obsolete,
}

pub(crate) const MODIFIED: Kind = Kind::Modified;
pub(crate) const OBSOLETE: Kind = Kind::Obsolete;

pub(crate) const PCAP: Kind = Kind::Pcap { nanos: true };
pub(crate) const PCAPNG: Kind = Kind::PcapNg {
    resolution: Some(9),
    offset: None,
};

/// Writes numbers in one byte order.
struct Bytes {
    big: bool,
    bytes: Vec<u8>,
}

impl Bytes {
    fn u16(&mut self, value: u16) -> &mut Self {
        let bytes = if self.big {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        };
        self.raw(&bytes)
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        let bytes = if self.big {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        };
        self.raw(&bytes)
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        let bytes = if self.big {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        };
        self.raw(&bytes)
    }

    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn pad(&mut self) -> &mut Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// A block of pcapng, length at both ends.
    fn block(&mut self, kind: u32, fill: impl FnOnce(&mut Self)) {
        let mut body = Self {
            big: self.big,
            bytes: Vec::new(),
        };
        fill(&mut body);
        body.pad();
        let len = u32::try_from(body.bytes.len() + 12).expect("a block");
        self.u32(kind).u32(len).raw(&body.bytes).u32(len);
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        let len = u16::try_from(value.len()).expect("an option");
        self.u16(code).u16(len).raw(value).pad();
    }
}

/// A capture of packets at interfaces of these link types and names.
pub(crate) fn capture(
    kind: Kind,
    big: bool,
    interfaces: &[(u16, Option<&str>)],
    records: &[Record],
) -> Vec<u8> {
    let mut out = Bytes {
        big,
        bytes: Vec::new(),
    };
    match kind {
        Kind::Pcap { nanos } => {
            let magic = if nanos { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
            file(&mut out, magic, interfaces, records);
        }
        Kind::Modified => file(&mut out, 0xa1b2_cd34, interfaces, records),
        Kind::Obsolete => {
            section(&mut out);
            for (link, name) in interfaces {
                interface(&mut out, *link, *name, (Some(9), None));
            }
            for record in records {
                obsolete(&mut out, record);
            }
        }
        Kind::PcapNg { resolution, offset } => {
            section(&mut out);
            for (link, name) in interfaces {
                interface(&mut out, *link, *name, (resolution, offset));
            }
            for record in records {
                packet(&mut out, record, (resolution, offset));
            }
        }
    }
    out.bytes
}

/// A pcap file.
fn file(out: &mut Bytes, magic: u32, interfaces: &[(u16, Option<&str>)], records: &[Record]) {
    let [(link, _)] = interfaces else {
        panic!("pcap has one interface");
    };
    out.u32(magic);
    out.u16(2)
        .u16(4)
        .u32(0)
        .u32(0)
        .u32(262_144)
        .u32(u32::from(*link));
    let per_tick = if magic == 0xa1b2_3c4d { 1 } else { 1000 };
    for record in records {
        let ticks = record.time_ns % 1_000_000_000 / per_tick;
        let seconds = record.time_ns / 1_000_000_000;
        out.u32(u32::try_from(seconds).expect("a time"));
        out.u32(u32::try_from(ticks).expect("a fraction"));
        out.u32(u32::try_from(record.data.len()).expect("a packet"));
        out.u32(record.len);
        if magic == 0xa1b2_cd34 {
            // Interface, protocol, kind of packet, nothing.
            out.u32(3).u16(0x0800).u16(0);
        }
        out.raw(&record.data);
    }
}

/// A packet of the obsolete kind: the interface's number and how many were dropped share a word.
fn obsolete(out: &mut Bytes, record: &Record) {
    out.block(2, |body| {
        body.u16(u16::try_from(record.interface).expect("a number"));
        body.u16(0xffff);
        body.u32(u32::try_from(record.time_ns >> 32).expect("half a word"));
        body.u32(u32::try_from(record.time_ns & 0xffff_ffff).expect("half a word"));
        body.u32(u32::try_from(record.data.len()).expect("a packet"));
        body.u32(record.len).raw(&record.data);
    });
}

fn section(out: &mut Bytes) {
    out.block(0x0a0d_0d0a, |body| {
        body.u32(0x1a2b_3c4d).u16(1).u16(0).u64(u64::MAX);
        body.option(4, b"by hand");
        body.option(0, b"");
    });
}

fn interface(
    out: &mut Bytes,
    link: u16,
    name: Option<&str>,
    (resolution, offset): (Option<u8>, Option<i64>),
) {
    out.block(1, |body| {
        body.u16(link).u16(0).u32(0);
        if let Some(name) = name {
            body.option(2, name.as_bytes());
        }
        if let Some(resolution) = resolution {
            body.option(9, &[resolution]);
        }
        if let Some(offset) = offset {
            let bytes = if body.big {
                offset.to_be_bytes()
            } else {
                offset.to_le_bytes()
            };
            body.option(14, &bytes);
        }
        body.option(0, b"");
    });
}

fn packet(out: &mut Bytes, record: &Record, (resolution, offset): (Option<u8>, Option<i64>)) {
    let offset = i128::from(offset.unwrap_or(0)) * 1_000_000_000;
    let time = u128::try_from(i128::from(record.time_ns) - offset).expect("a time");
    let ticks = match resolution.unwrap_or(6) {
        power if power & 0x80 == 0 => time * 10_u128.pow(power.into()) / 1_000_000_000,
        power => (time << (power & 0x7f)) / 1_000_000_000,
    };
    let ticks = u64::try_from(ticks).expect("ticks");
    out.block(6, |body| {
        body.u32(record.interface);
        body.u32(u32::try_from(ticks >> 32).expect("half a word"));
        body.u32(u32::try_from(ticks & 0xffff_ffff).expect("half a word"));
        body.u32(u32::try_from(record.data.len()).expect("a packet"));
        body.u32(record.len).raw(&record.data);
    });
}

/// A block that no reader has to know.
pub(crate) fn unknown_block(big: bool, kind: u32, len: usize) -> Vec<u8> {
    let mut out = Bytes {
        big,
        bytes: Vec::new(),
    };
    out.block(kind, |body| {
        body.raw(&vec![0xee; len]);
    });
    out.bytes
}

/// Compressed, in two members as `cat a.gz b.gz` makes them.
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    let (first, second) = bytes.split_at(bytes.len() / 2);
    for part in [first, second] {
        let mut encoder = GzEncoder::new(&mut all, Compression::fast());
        encoder.write_all(part).expect("memory");
        encoder.finish().expect("memory");
    }
    all
}
