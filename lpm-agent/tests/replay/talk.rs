//! Packets of one connection that makes samples of both legs.

use std::net::IpAddr;

use lpm_common::{
    packet::flag,
    testing::{frame::Frame, vectors},
};

use crate::write::Record;

/// The time of the first packet: in 2026, a multiple of 8 us, so that microseconds and units of
/// 64 ns hold every time exactly.
pub(crate) const BEGIN: u64 = 1_767_322_400_000_000_000;

/// A frame of the connection.
pub(crate) struct Talk {
    pub(crate) local: IpAddr,
    pub(crate) remote: IpAddr,
    pub(crate) sport: u16,
    pub(crate) dport: u16,
    /// Without timestamps.
    pub(crate) plain: bool,
    records: Vec<(u64, Frame)>,
    seq: [u32; 2],
}

impl Talk {
    pub(crate) fn new(v6: bool) -> Self {
        let (local, remote) = vectors::ends(v6);
        Self {
            local,
            remote,
            sport: 41_140,
            dport: 5301,
            plain: false,
            records: Vec::new(),
            seq: [1000, 5000],
        }
    }

    /// A packet `at` microseconds after the beginning, from the local end or to it.
    pub(crate) fn packet(&mut self, at: u64, from: bool, flags: u8, payload: u32, ts: (u32, u32)) {
        let mut frame = if from {
            Frame::new(self.local, self.remote, self.sport, self.dport)
        } else {
            Frame::new(self.remote, self.local, self.dport, self.sport)
        };
        let way = usize::from(!from);
        frame.flags = flags;
        frame.payload = payload;
        frame.timestamp = (!self.plain).then_some(ts);
        frame.seq = self.seq[way];
        if flags & flag::ACK != 0 {
            frame.ack = self.seq[1 - way];
        }
        if flags & flag::SYN != 0 {
            frame.mss = Some(1460);
        }
        let sent = payload + u32::from(flags & (flag::SYN | flag::FIN) != 0);
        self.seq[way] = self.seq[way].wrapping_add(sent);
        self.records.push((BEGIN + at * 1000, frame));
    }

    /// A connection opened, requests answered, closed: samples of both legs.
    pub(crate) fn usual(v6: bool) -> Self {
        Self::usual_of(v6, false)
    }

    /// The usual connection over IPv4, from the port 20,000 + `port`.
    pub(crate) fn usual_from(port: u16) -> Self {
        let mut talk = Self::new(false);
        talk.sport = 20_000 + port;
        talk.usual_packets();
        talk
    }

    /// The usual connection; with `swapped` the end with the higher address opens it.
    pub(crate) fn usual_of(v6: bool, swapped: bool) -> Self {
        let mut talk = Self::new(v6);
        if swapped {
            (talk.local, talk.remote) = (talk.remote, talk.local);
        }
        talk.usual_packets();
        talk
    }

    fn usual_packets(&mut self) {
        let talk = self;
        talk.packet(0, true, flag::SYN, 0, (100, 0));
        talk.packet(800, false, flag::SYN | flag::ACK, 0, (900, 100));
        talk.packet(816, true, flag::ACK, 0, (100, 900));
        for i in 0..5_u64 {
            let tick = u32::try_from(i).expect("few") * 10;
            let at = 10_000 * (i + 1);
            talk.packet(at, true, flag::ACK, 20, (110 + tick, 900 + tick));
            talk.packet(
                at + 1600 + i * 8,
                false,
                flag::ACK,
                500,
                (910 + tick, 110 + tick),
            );
            talk.packet(
                at + 1640 + i * 16,
                true,
                flag::ACK,
                0,
                (112 + tick, 910 + tick),
            );
        }
        talk.packet(90_000, true, flag::ACK | flag::FIN, 0, (190, 950));
        talk.packet(90_800, false, flag::ACK | flag::FIN, 0, (990, 190));
        talk.packet(90_816, true, flag::ACK, 0, (191, 990));
    }

    /// The connection's Ethernet frames, each with its time.
    pub(crate) fn frames(&self) -> Vec<(u64, Vec<u8>)> {
        self.records
            .iter()
            .map(|(time, frame)| (*time, frame.bytes()))
            .collect()
    }

    /// The connection's records behind another header than Ethernet's.
    pub(crate) fn behind(&self, header: impl Fn(bool) -> Vec<u8>) -> Vec<Record> {
        let record = |(time, frame): &(u64, Frame)| {
            let mut frame = frame.clone();
            frame.ethernet = false;
            let bytes = [header(frame.src.is_ipv6()), frame.bytes()].concat();
            Record::whole(*time, bytes)
        };
        self.records.iter().map(record).collect()
    }

    /// The connection's Ethernet records with these tags, by whether the local end sends.
    pub(crate) fn tagged(&self, tags: impl Fn(bool) -> &'static [(u16, u16)]) -> Vec<Record> {
        let record = |(time, frame): &(u64, Frame)| {
            let mut frame = frame.clone();
            frame.tags = tags(frame.src == self.local).to_vec();
            Record::whole(*time, frame.bytes())
        };
        self.records.iter().map(record).collect()
    }

    /// The connection's Ethernet records.
    pub(crate) fn records(&self) -> Vec<Record> {
        let frames = self.frames().into_iter();
        frames
            .map(|(time, frame)| Record::whole(time, frame))
            .collect()
    }

    /// The connection's Ethernet records, this many nanoseconds later.
    pub(crate) fn records_after(&self, later: u64) -> Vec<Record> {
        let mut records = self.records();
        for record in &mut records {
            record.time_ns += later;
        }
        records
    }
}
