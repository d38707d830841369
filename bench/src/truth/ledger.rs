//! The truth about a sample, from the wire's log.

use std::{collections::HashMap, net::IpAddr};

use super::monitor::{Leg, Sample};
use crate::testbed::wire::Record;

/// Source and destination of the stamped packet, and its `TSval`.
type Key = (IpAddr, u16, IpAddr, u16, u32);

/// When a packet came to the wire and left it, `CLOCK_MONOTONIC` ns.
#[derive(Debug, Clone, Copy)]
struct Passage {
    arrival_ns: u64,
    departure_ns: u64,
}

/// What the wire knows about every `TSval` that crossed it.
#[derive(Debug, Default)]
pub struct Ledger {
    stamps: HashMap<Key, Passage>,
    echoes: HashMap<Key, Passage>,
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

impl Ledger {
    /// Reads a log, which must be in order of arrival.
    #[must_use]
    pub fn new(records: &[Record]) -> Self {
        let mut ledger = Self::default();
        for record in records {
            let (Some(tcp), Some(departure_ns)) = (&record.tcp, record.departure_ns) else {
                continue;
            };
            let Some((value, echo)) = tcp.timestamps else {
                continue;
            };
            let passage = Passage {
                arrival_ns: record.arrival_ns,
                departure_ns,
            };
            let source = (tcp.source, tcp.source_port);
            let destination = (tcp.destination, tcp.destination_port);
            // The first one counts, both as stamp and as echo.
            ledger
                .stamps
                .entry(key(source, destination, value))
                .or_insert(passage);
            if tcp.flags & 0x10 != 0 {
                ledger
                    .echoes
                    .entry(key(destination, source, echo))
                    .or_insert(passage);
            }
        }
        ledger
    }

    /// The truth about a sample of the remote leg; None for the local leg and
    /// for what never happened.
    #[must_use]
    pub fn truth(&self, sample: &Sample) -> Option<Truth> {
        if sample.leg != Leg::Remote {
            return None;
        }
        let key = key(
            (sample.src, sample.sport),
            (sample.dst, sample.dport),
            sample.id,
        );
        let (stamp, echo) = (self.stamps.get(&key)?, self.echoes.get(&key)?);
        let held = |passage: &Passage| passage.departure_ns.saturating_sub(passage.arrival_ns);
        Some(Truth {
            delay_ns: held(stamp) + held(echo),
            beyond_ns: echo.departure_ns.checked_sub(stamp.arrival_ns)?,
        })
    }
}

fn key(from: (IpAddr, u16), to: (IpAddr, u16), id: u32) -> Key {
    (from.0, from.1, to.0, to.1, id)
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
            id,
            vlan: None,
        }
    }

    #[test]
    fn the_first_of_each_counts() {
        let ledger = Ledger::new(&[
            record(POD, FAR, [100, 150], (7, 1)),
            record(POD, FAR, [110, 160], (7, 1)),
            record(FAR, POD, [200, 270], (90, 7)),
            record(FAR, POD, [210, 280], (90, 7)),
        ]);
        let truth = ledger.truth(&sample(7, Leg::Remote)).expect("it happened");
        assert_eq!(truth.delay_ns, 50 + 70);
        assert_eq!(truth.beyond_ns, 170);
        assert_eq!(ledger.truth(&sample(8, Leg::Remote)), None);
        assert_eq!(ledger.truth(&sample(7, Leg::Local)), None);
    }
}
