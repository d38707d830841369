//! What a log of packets (the wire's, or a capture) says of the round trips: TSval out, first TSecr
//! back.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use lpm_testbed::testbed::wire::{Direction, Record};

/// Where the servers listen.
pub(crate) const PORT: u16 = 5301;

/// A round trip.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trip {
    /// What tells it from all others: the client's port and the timestamp.
    pub(crate) id: (u16, u32),
    /// When its echo left the wire, or was seen, by the log's clock, in ns.
    pub(crate) end_ns: u64,
    /// How long it took, in seconds.
    pub(crate) seconds: f64,
}

/// Round trips of what a pod of `node-a` sent across (forward), or of what it was sent (backward),
/// in order of time.
///
/// From the arrival of the first segment with a timestamp, if it carries data, to the departure of the
/// first one back that echoes it.
pub(crate) fn trips(records: &[Record], client: IpAddr, way: Direction) -> Vec<Trip> {
    let mut events: Vec<_> = records
        .iter()
        .filter_map(|record| {
            let tcp = record.tcp?;
            let (ours, port, server) = match record.direction {
                Direction::Forward => (tcp.source, tcp.source_port, tcp.destination_port),
                Direction::Backward => (tcp.destination, tcp.destination_port, tcp.source_port),
            };
            let sent = record.direction == way;
            let time = if sent {
                Some(record.arrival_ns)
            } else {
                record.departure_ns
            };
            (ours == client && server == PORT).then_some((time?, sent, port, tcp))
        })
        .collect();
    events.sort_by_key(|(time, ..)| *time);
    let (mut newest, mut stamps, mut trips) = (HashMap::new(), HashMap::new(), Vec::new());
    for (time, sent, port, tcp) in events {
        let Some((value, echo)) = tcp.timestamps else {
            continue;
        };
        if sent {
            let first = newest.insert(port, value) != Some(value);
            if first && tcp.payload > 0 {
                stamps.insert((port, value), time);
            }
        } else if let Some(start) = stamps.remove(&(port, echo)) {
            trips.push(Trip {
                id: (port, echo),
                end_ns: time,
                seconds: Duration::from_nanos(time.saturating_sub(start)).as_secs_f64(),
            });
        }
    }
    trips
}

/// Their mean.
#[expect(clippy::cast_precision_loss, reason = "a number of packets")]
pub(crate) fn mean(trips: &[f64]) -> f64 {
    trips.iter().sum::<f64>() / trips.len() as f64
}

/// What a share of them does not pass.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a place in a list"
)]
pub(crate) fn quantile(trips: &[f64], share: f64) -> f64 {
    trips[((trips.len() - 1) as f64 * share) as usize]
}
