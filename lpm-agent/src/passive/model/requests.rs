//! Requests over TCP and their whole answers.

use std::collections::BTreeMap;

use lpm_common::layout::{Family, Leg};

use super::{Counts, Labels, Model};

/// The counts of requests in the kernel's histograms.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    /// Times from the first byte of a request to the last byte of its answer, of the rows in which
    /// each connection is counted once. The leg is `remote` where the local end asks.
    pub by_labels: BTreeMap<(Labels, Leg), Counts>,
    /// Number of all samples, those at other vantages included.
    pub samples: u64,
}

impl Model {
    /// The times of requests. Empty if the method is off.
    #[must_use]
    pub fn requests(&self) -> Requests {
        let (by_labels, samples) = self.by_leg(Family::Request);
        Requests { by_labels, samples }
    }
}

#[cfg(test)]
mod tests {
    use lpm_common::layout::{NameId, NameValue, PairKey, PeerKind, Vantage};

    use super::{
        super::tests::{model, observe, tables},
        *,
    };

    #[test]
    fn requests_are_neither_round_trips_nor_counted_twice() {
        let pod = |namespace| NameValue::new(NameId::new(namespace, 0), PeerKind::Pod);
        let at =
            |vantage: Vantage| PairKey::new(vantage as u8, pod(1), pod(2)).with(Family::Request);
        let tables = tables(&[at(Vantage::Pod), at(Vantage::Overlay)]);
        observe(&tables, 1, Leg::Local, 0, 86_000_000);
        let model = model(tables);
        assert_eq!(model.rtt().samples, 0);
        assert!(model.echoes().by_labels.is_empty());
        let requests = model.requests();
        assert_eq!(requests.samples, 3, "the overlay's are samples, too");
        let legs: Vec<Leg> = requests.by_labels.keys().map(|(_, leg)| *leg).collect();
        assert_eq!(legs, [Leg::Remote, Leg::Local]);
        assert!(
            requests
                .by_labels
                .values()
                .all(|counts| counts.count() == 1)
        );
    }
}
