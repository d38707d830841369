//! What a wire saw: one record per packet, and its precision from them.

use std::{
    fmt,
    io::{self, Write},
    net::IpAddr,
};

use serde::Serialize;

/// One of a wire's two directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the first end to the second.
    Forward,
    /// From the second end to the first.
    Backward,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It left at the other end.
    Forwarded,
    /// A second copy of a forwarded packet left at the other end.
    Duplicated,
    /// It was lost on purpose.
    Lost,
    /// It was dropped because the queue was full.
    Overflowed,
    /// The kernel refused to send it.
    Refused,
}

/// The TCP header fields that tell segments apart, of the innermost TCP
/// header if the packet is a `VxLAN` one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct TcpIdentity {
    /// `VxLAN` network, if it was inside one.
    pub vni: Option<u32>,
    /// Outermost VLAN id of the frame that holds the segment.
    pub vlan: Option<u16>,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Sequence number of the first payload byte.
    pub sequence: u32,
    /// Acknowledgement number; valid if `flags` has ACK (0x10).
    pub acknowledgement: u32,
    /// The flags byte: FIN 1, SYN 2, RST 4, PSH 8, ACK 0x10, URG 0x20, ECE 0x40, CWR 0x80.
    pub flags: u8,
    /// Payload bytes, by the length in the IP header.
    pub payload: u32,
    /// `TSval` and `TSecr`, if the timestamp option is there.
    pub timestamps: Option<(u32, u32)>,
}

/// One packet on a wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Record {
    /// Which way it went.
    pub direction: Direction,
    /// What became of it.
    pub fate: Fate,
    /// When it came, `CLOCK_MONOTONIC` ns: the kernel's receive timestamp,
    /// taken as the sender put it on the wire.
    pub arrival_ns: u64,
    /// When it should have left, `CLOCK_MONOTONIC` ns.
    pub due_ns: u64,
    /// When it left, `CLOCK_MONOTONIC` ns, taken just before the system call
    /// that sent it. None unless forwarded or duplicated.
    pub departure_ns: Option<u64>,
    /// Length of the Ethernet frame as it came, tags included.
    pub frame_bytes: u32,
    /// Its TCP segment, if it is one and could be read.
    pub tcp: Option<TcpIdentity>,
}

impl Record {
    /// The time it really spent on the wire, in ns, if it left.
    #[must_use]
    pub fn delay_ns(&self) -> Option<u64> {
        self.departure_ns
            .map(|departure| departure.saturating_sub(self.arrival_ns))
    }

    /// How late it left, in ns, if it left.
    #[must_use]
    pub fn lateness_ns(&self) -> Option<u64> {
        self.departure_ns
            .map(|departure| departure.saturating_sub(self.due_ns))
    }
}

/// How well a wire kept its delay: actual less wanted, in ns. A wire never
/// sends early, so all are 0 or more.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Precision {
    /// Packets that left.
    pub packets: usize,
    /// Mean lateness.
    pub mean_ns: f64,
    /// Half of the packets were at most this late.
    pub p50_ns: u64,
    /// 99 % were at most this late.
    pub p99_ns: u64,
    /// The latest.
    pub max_ns: u64,
}

impl Precision {
    /// The precision over these records; None if no packet left.
    #[must_use]
    pub fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Option<Self> {
        let mut lateness: Vec<u64> = records
            .into_iter()
            .filter_map(Record::lateness_ns)
            .collect();
        lateness.sort_unstable();
        let packets = lateness.len();
        let max_ns = *lateness.last()?;
        #[expect(clippy::cast_precision_loss, reason = "sums stay far below 2^52 ns")]
        let mean_ns = lateness.iter().sum::<u64>() as f64 / packets as f64;
        let rank = |percent: usize| lateness[(packets * percent).div_ceil(100).max(1) - 1];
        Some(Self {
            packets,
            mean_ns,
            p50_ns: rank(50),
            p99_ns: rank(99),
            max_ns,
        })
    }
}

impl fmt::Display for Precision {
    #[expect(clippy::cast_precision_loss, reason = "for people's eyes")]
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, max] = [self.p50_ns, self.p99_ns, self.max_ns].map(|ns| ns as f64 / 1e3);
        write!(
            formatter,
            "{} packets, late by mean {:.1} us, p50 {p50:.1} us, p99 {p99:.1} us, max {max:.1} us",
            self.packets,
            self.mean_ns / 1e3
        )
    }
}

/// The columns of [`write_csv`].
pub const CSV_HEADER: &str = "direction,fate,arrival_ns,due_ns,departure_ns,frame_bytes,vni,vlan,\
source,destination,source_port,destination_port,sequence,acknowledgement,flags,payload,tsval,tsecr";

/// Writes records as CSV with the header [`CSV_HEADER`]; what is not known is
/// an empty field.
pub fn write_csv<'a>(
    mut out: impl Write,
    records: impl IntoIterator<Item = &'a Record>,
) -> io::Result<()> {
    fn field<T: ToString>(value: Option<T>) -> String {
        value.map_or_else(String::new, |value| value.to_string())
    }
    writeln!(out, "{CSV_HEADER}")?;
    for record in records {
        let direction = match record.direction {
            Direction::Forward => "forward",
            Direction::Backward => "backward",
        };
        let fate = match record.fate {
            Fate::Forwarded => "forwarded",
            Fate::Duplicated => "duplicated",
            Fate::Lost => "lost",
            Fate::Overflowed => "overflowed",
            Fate::Refused => "refused",
        };
        write!(
            out,
            "{direction},{fate},{},{},{},{}",
            record.arrival_ns,
            record.due_ns,
            field(record.departure_ns),
            record.frame_bytes
        )?;
        match &record.tcp {
            None => writeln!(out, ",,,,,,,,,,,,")?,
            Some(tcp) => writeln!(
                out,
                ",{},{},{},{},{},{},{},{},{},{},{},{}",
                field(tcp.vni),
                field(tcp.vlan),
                tcp.source,
                tcp.destination,
                tcp.source_port,
                tcp.destination_port,
                tcp.sequence,
                tcp.acknowledgement,
                tcp.flags,
                tcp.payload,
                field(tcp.timestamps.map(|(value, _)| value)),
                field(tcp.timestamps.map(|(_, echo)| echo)),
            )?,
        }
    }
    Ok(())
}
