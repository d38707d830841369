//! Counts misattributed round trips: those under the name of an address's former owner.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::IpAddr,
    sync::{Mutex, PoisonError, atomic::AtomicU64, atomic::Ordering},
    time::SystemTime,
};

use super::{Flow, Model, UNKNOWN};
use crate::identity::merge::Moved;

/// Most flows that are remembered while their owner is unknown. Further ones stay uncounted.
const SUSPECTS: usize = 4096;

/// State of the count.
#[derive(Debug, Default)]
pub(super) struct Misattributed {
    samples: AtomicU64,
    /// Flows by remote address, which may have been the next owner's.
    suspects: Mutex<HashMap<IpAddr, Vec<Suspect>>>,
}

/// A flow, as it was when its remote address lost its owner.
#[derive(Debug)]
struct Suspect {
    /// Identifies the flow as long as it has its entry.
    fingerprint: u64,
    began: SystemTime,
    samples: u64,
}

impl Model {
    /// Counts round trips at addresses that had changed owners before the event about it came. Call
    /// it before the addresses get their new names. Connections that began in between were counted
    /// under the former owner's name. A connection with the former owner itself cannot have begun
    /// then. If the time of the change is unknown, the next owner's beginning decides later.
    ///
    /// # Errors
    /// The clocks cannot be read.
    pub fn count_late(&self, moved: &[Moved]) -> io::Result<()> {
        let (mut since, mut endless) = (HashMap::new(), HashSet::new());
        for Moved { address, since: at } in moved {
            let Some(at) = *at else {
                endless.insert(*address);
                continue;
            };
            let known = since.entry(*address).or_insert(at);
            *known = (*known).max(at);
        }
        let mut late = self.late_suspects(&since);
        let clock = self.clock()?;
        let flows = (0..self.tables.flow_count())
            .filter_map(|index| Flow::read(index, self.tables.flow(index)?));
        let mut suspects = Vec::new();
        for flow in flows {
            let began = clock.wall(flow.first_seen);
            let samples: u64 = flow.legs.map(|leg| u64::from(leg.samples)).iter().sum();
            let known = since.get(&flow.remote);
            let suspect = known.is_none() && endless.contains(&flow.remote);
            let after = known.is_some_and(|since| began >= *since);
            // A flow that was counted above has counted already, if it has no other row yet.
            let counted = late.1.contains(&flow.fingerprint);
            if counted || samples == 0 || !(suspect || after) || !self.is_named(flow.row) {
                continue;
            }
            if after {
                late.0 += samples;
            } else {
                let suspect = Suspect {
                    fingerprint: flow.fingerprint,
                    began,
                    samples,
                };
                suspects.push((flow.remote, suspect));
            }
        }
        self.late.samples.fetch_add(late.0, Ordering::Relaxed);
        self.suspect(suspects);
        Ok(())
    }

    /// Number of round trips so far that were counted under the name of an address's former owner.
    #[must_use]
    pub fn late(&self) -> u64 {
        self.late.samples.load(Ordering::Relaxed)
    }

    /// Samples of suspects that began after their addresses' next owners, and the flows that were
    /// suspects.
    fn late_suspects(&self, since: &HashMap<IpAddr, SystemTime>) -> (u64, HashSet<u64>) {
        let suspects = &self.late.suspects;
        let mut suspects = suspects.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut samples, mut known) = (0, HashSet::new());
        for (address, since) in since {
            for suspect in suspects.remove(address).unwrap_or_default() {
                known.insert(suspect.fingerprint);
                samples += suspect.samples * u64::from(suspect.began >= *since);
            }
        }
        (samples, known)
    }

    fn suspect(&self, flows: Vec<(IpAddr, Suspect)>) {
        let suspects = &self.late.suspects;
        let mut suspects = suspects.lock().unwrap_or_else(PoisonError::into_inner);
        let known: usize = suspects.values().map(Vec::len).sum();
        for (address, suspect) in flows.into_iter().take(SUSPECTS.saturating_sub(known)) {
            let of_address = suspects.entry(address).or_default();
            // Two owners may have ended at the address without a new one in between.
            if of_address
                .iter()
                .all(|known| known.fingerprint != suspect.fingerprint)
            {
                of_address.push(suspect);
            }
        }
    }

    /// True if the round trips of a row belong to an owner with a name.
    fn is_named(&self, row: u16) -> bool {
        let labels = self.row_labels(usize::from(row));
        labels.is_some_and(|labels| {
            row != 0 && !labels.peer_namespace.is_empty() && *labels.peer_namespace != *UNKNOWN
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lpm_common::layout::{NameValue, PairKey, PeerKind, Vantage};

    use super::*;
    use crate::passive::{
        flow::tests::fill,
        model::tests::{A, B, model, name, tables},
    };

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 9, 1));

    fn moved(since: Option<SystemTime>) -> [Moved; 1] {
        let address = ADDRESS;
        [Moved { address, since }]
    }

    /// A model with three flows of the address, and when the second began. One is from long ago,
    /// one from now, and one from now without a name. Each has a number of samples of its own.
    fn three() -> (Model, SystemTime) {
        let [a, b] = [A, B].map(|of| name(of, PeerKind::Pod, 0));
        let rows = [b, NameValue::default()].map(|peer| PairKey::new(Vantage::Pod as u8, a, peer));
        let model = model(tables(&rows));
        let clock = model.clock().expect("a clock");
        for (index, (age, row, samples)) in [(100_000, 1, 1), (0, 1, 20), (0, 2, 300)]
            .into_iter()
            .enumerate()
        {
            let entry = model.tables().flow(index).expect("an entry");
            fill(entry, index as u64 + 5, 1);
            let born = clock.jiffies.wrapping_sub(age);
            entry.cold.first_seen.store(born, Ordering::Relaxed);
            entry.row.store(row, Ordering::Relaxed);
            entry.slots[0].samples.store(samples, Ordering::Relaxed);
        }
        (model, SystemTime::now())
    }

    #[test]
    fn connections_that_began_after_the_end() {
        let (model, now) = three();
        let since = Some(now - Duration::from_secs(5));
        model.count_late(&moved(since)).expect("clocks");
        assert_eq!(model.late(), 20);
    }

    #[test]
    fn the_next_owner_tells_when_the_end_was() {
        let (model, now) = three();
        for _ in 0..2 {
            model.count_late(&moved(None)).expect("clocks");
            assert_eq!(model.late(), 0, "nobody knows yet");
        }
        // The flow's entry is given to another meanwhile.
        fill(model.tables().flow(1).expect("an entry"), 77, 2);
        model
            .tables()
            .flow(1)
            .expect("an entry")
            .row
            .store(2, Ordering::Relaxed);
        let since = Some(now - Duration::from_secs(5));
        model.count_late(&moved(since)).expect("clocks");
        assert_eq!(model.late(), 20);
        model.count_late(&moved(since)).expect("clocks");
        assert_eq!(model.late(), 20, "once");
    }

    #[test]
    fn what_was_told_of_at_once_counts_once() {
        let (model, now) = three();
        let since = Some(now - Duration::from_secs(5));
        model.count_late(&moved(None)).expect("clocks");
        // No packet has come since, so the entry still has the row.
        model.count_late(&moved(since)).expect("clocks");
        assert_eq!(model.late(), 20);
    }
}
