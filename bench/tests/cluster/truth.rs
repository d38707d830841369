//! What the wire's log says of the round trips: TSval out, first TSecr back.

use std::collections::HashMap;

use lpm_bench::testbed::wire::{Direction, Record};

/// Where the servers listen.
const PORT: u16 = 5301;

/// Round trips beyond `node-a` of what its pods sent across, in seconds, in order of size.
///
/// From a segment's arrival at the wire to the departure of the first one back that echoes its
/// timestamp; where several segments have the same, from the first.
pub(crate) fn round_trips(records: &[Record]) -> Vec<f64> {
    let mut stamps = HashMap::new();
    let mut trips = Vec::new();
    let mut events: Vec<_> = records
        .iter()
        .filter_map(|record| Some((record, record.tcp?, record.tcp?.timestamps?)))
        .collect();
    events.sort_by_key(|(record, ..)| match record.direction {
        Direction::Forward => Some(record.arrival_ns),
        Direction::Backward => record.departure_ns,
    });
    for (record, tcp, (value, echo)) in events {
        if record.direction == Direction::Forward && tcp.destination_port == PORT {
            if tcp.payload > 0 {
                let key = (tcp.source, tcp.source_port, value);
                stamps.entry(key).or_insert(record.arrival_ns);
            }
        } else if let (PORT, Some(back)) = (tcp.source_port, record.departure_ns) {
            let key = (tcp.destination, tcp.destination_port, echo);
            if let Some(sent) = stamps.remove(&key) {
                trips
                    .push(std::time::Duration::from_nanos(back.saturating_sub(sent)).as_secs_f64());
            }
        }
    }
    trips.sort_by(f64::total_cmp);
    assert!(
        trips.len() > 200,
        "the wire saw {} round trips only",
        trips.len()
    );
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
