//! The truth about a sample, from the wire's log.

use std::{collections::HashMap, net::IpAddr};

use super::monitor::{Leg, Method, Sample};
use crate::testbed::wire::{Record, TcpIdentity};

/// Source and destination of the stamped packet.
type Flow = (IpAddr, u16, IpAddr, u16);

/// A flow and what a packet of it is known by.
type Key = (Flow, u32);

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// When a packet came to the wire and left it, `CLOCK_MONOTONIC` ns.
#[derive(Debug, Clone, Copy)]
struct Passage {
    arrival_ns: u64,
    departure_ns: u64,
}

/// What the wire knows about every `TSval`, segment and acknowledgement that
/// crossed it.
#[derive(Debug, Default)]
pub struct WireTruth {
    stamps: HashMap<Key, Passage>,
    echoes: HashMap<Key, Passage>,
    /// Segments by the sequence number after them.
    ends: HashMap<Key, Passage>,
    /// By the flow they acknowledge: those that went beyond all before.
    acknowledgements: HashMap<Flow, Vec<(u32, Passage)>>,
    /// Answers to a SYN: SYN-ACK, or RST with ACK.
    answers: HashMap<Key, Passage>,
}

/// What really happened to a sample's two packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truth {
    /// How long the wire held the stamped packet and its echo, together, ns.
    pub delay_ns: u64,
    /// From the arrival of the stamped packet at the wire to the departure of
    /// its echo: the round trip without what lies before the wire, ns.
    pub beyond_ns: u64,
}

impl WireTruth {
    /// Reads a log, which must be in order of arrival.
    #[must_use]
    pub fn new(records: &[Record]) -> Self {
        let mut wire = Self::default();
        for record in records {
            let (Some(tcp), Some(departure_ns)) = (&record.tcp, record.departure_ns) else {
                continue;
            };
            let passage = Passage {
                arrival_ns: record.arrival_ns,
                departure_ns,
            };
            wire.timestamps(tcp, passage);
            wire.numbers(tcp, passage);
        }
        wire
    }

    /// The first one counts, both as stamp and as echo.
    fn timestamps(&mut self, tcp: &TcpIdentity, passage: Passage) {
        let Some((value, echo)) = tcp.timestamps else {
            return;
        };
        let (out, back) = flows(tcp);
        self.stamps.entry((out, value)).or_insert(passage);
        if tcp.flags & ACK != 0 {
            self.echoes.entry((back, echo)).or_insert(passage);
        }
    }

    /// The first one counts, as with timestamps.
    fn numbers(&mut self, tcp: &TcpIdentity, passage: Passage) {
        let (out, back) = flows(tcp);
        let flag = |bit| u32::from(tcp.flags & bit != 0);
        let size = tcp.payload + flag(SYN) + flag(FIN);
        if size > 0 {
            let end = tcp.sequence.wrapping_add(size);
            self.ends.entry((out, end)).or_insert(passage);
        }
        if tcp.flags & ACK == 0 {
            return;
        }
        if tcp.flags & (SYN | RST) != 0 {
            let answer = (back, tcp.acknowledgement);
            self.answers.entry(answer).or_insert(passage);
        }
        let seen = self.acknowledgements.entry(back).or_default();
        let news = seen
            .last()
            .is_none_or(|(last, _)| ahead(tcp.acknowledgement, *last) > 0);
        if tcp.flags & RST == 0 && news {
            seen.push((tcp.acknowledgement, passage));
        }
    }

    /// The truth about a sample of the remote leg; None for the local leg and
    /// for what never happened.
    #[must_use]
    pub fn truth(&self, sample: &Sample) -> Option<Truth> {
        if sample.leg != Leg::Remote {
            return None;
        }
        let flow = (sample.src, sample.sport, sample.dst, sample.dport);
        let key = (flow, sample.id);
        let (stamp, echo) = match sample.method {
            Method::Ts => (self.stamps.get(&key)?, self.echoes.get(&key)?),
            Method::Seq => (self.ends.get(&key)?, self.acknowledged(flow, sample.id)?),
            // A SYN-ACK of the pod is answered by an ACK.
            Method::Handshake => (
                self.ends.get(&key)?,
                self.answers
                    .get(&key)
                    .or_else(|| self.acknowledged(flow, sample.id))?,
            ),
            Method::Icmp | Method::Dns => return None,
        };
        let held = |passage: &Passage| passage.departure_ns.saturating_sub(passage.arrival_ns);
        Some(Truth {
            delay_ns: held(stamp) + held(echo),
            beyond_ns: echo.departure_ns.checked_sub(stamp.arrival_ns)?,
        })
    }

    /// The first acknowledgement at a sequence number or beyond.
    fn acknowledged(&self, flow: Flow, end: u32) -> Option<&Passage> {
        let seen = self.acknowledgements.get(&flow)?;
        let first = seen.partition_point(|(number, _)| ahead(*number, end) < 0);
        seen.get(first).map(|(_, passage)| passage)
    }
}

/// The direction of a segment, and the other.
fn flows(tcp: &TcpIdentity) -> (Flow, Flow) {
    let (source, destination) = (
        (tcp.source, tcp.source_port),
        (tcp.destination, tcp.destination_port),
    );
    let flow = |from: (IpAddr, u16), to: (IpAddr, u16)| (from.0, from.1, to.0, to.1);
    (flow(source, destination), flow(destination, source))
}

/// How far a sequence number lies beyond another, modulo 2^32.
fn ahead(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testbed::wire::{Direction, Fate, TcpIdentity};
    use crate::truth::monitor::Echo;

    const POD: (IpAddr, u16) = (IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 1, 2)), 4000);
    const FAR: (IpAddr, u16) = (IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 2, 2)), 5301);

    fn record(
        from: (IpAddr, u16),
        to: (IpAddr, u16),
        times: [u64; 2],
        timestamps: (u32, u32),
    ) -> Record {
        Record {
            direction: Direction::Forward,
            fate: Fate::Forwarded,
            arrival_ns: times[0],
            due_ns: times[1],
            departure_ns: Some(times[1]),
            frame_bytes: 100,
            tcp: Some(TcpIdentity {
                vni: None,
                vlan: None,
                source: from.0,
                destination: to.0,
                source_port: from.1,
                destination_port: to.1,
                sequence: 1,
                acknowledgement: 1,
                flags: 0x10,
                payload: 10,
                timestamps: Some(timestamps),
            }),
        }
    }

    fn sample(id: u32, leg: Leg) -> Sample {
        Sample {
            interface: "v".to_owned(),
            vantage: "pod".to_owned(),
            src: POD.0,
            sport: POD.1,
            dst: FAR.0,
            dport: FAR.1,
            rtt_ns: 1,
            leg,
            echo: Echo::Prompt,
            method: Method::Ts,
            id,
            vlan: None,
            tunnels: Vec::new(),
        }
    }

    #[test]
    fn the_first_of_each_counts() {
        let wire = WireTruth::new(&[
            record(POD, FAR, [100, 150], (7, 1)),
            record(POD, FAR, [110, 160], (7, 1)),
            record(FAR, POD, [200, 270], (90, 7)),
            record(FAR, POD, [210, 280], (90, 7)),
        ]);
        let truth = wire.truth(&sample(7, Leg::Remote)).expect("it happened");
        assert_eq!(truth.delay_ns, 50 + 70);
        assert_eq!(truth.beyond_ns, 170);
        assert_eq!(wire.truth(&sample(8, Leg::Remote)), None);
        assert_eq!(wire.truth(&sample(7, Leg::Local)), None);
    }

    #[test]
    fn the_first_acknowledgement_that_covers_counts() {
        let numbered = |from, to, times, sequence, payload, acknowledgement, flags| {
            let mut record = record(from, to, times, (0, 0));
            let tcp = record.tcp.as_mut().expect("TCP");
            (tcp.timestamps, tcp.sequence, tcp.payload) = (None, sequence, payload);
            (tcp.acknowledgement, tcp.flags) = (acknowledgement, flags);
            record
        };
        let last = u32::MAX;
        let wire = WireTruth::new(&[
            numbered(POD, FAR, [100, 150], last, 0, 0, SYN),
            numbered(FAR, POD, [200, 270], 40, 0, 0, SYN | ACK),
            numbered(POD, FAR, [300, 350], 0, 10, 41, ACK),
            numbered(FAR, POD, [400, 450], 41, 0, 5, ACK),
            numbered(FAR, POD, [500, 570], 41, 0, 15, ACK),
            numbered(FAR, POD, [600, 680], 41, 0, 15, ACK),
        ]);
        let of = |method, id| {
            wire.truth(&Sample {
                method,
                ..sample(id, Leg::Remote)
            })
        };
        let syn = of(Method::Handshake, 0).expect("SYN and SYN-ACK");
        assert_eq!((syn.delay_ns, syn.beyond_ns), (50 + 70, 170));
        let data = of(Method::Seq, 10).expect("a segment and its ACK");
        assert_eq!((data.delay_ns, data.beyond_ns), (50 + 70, 270));
        assert_eq!(of(Method::Seq, 11), None);
        assert_eq!(of(Method::Ts, 10), None);
    }
}
