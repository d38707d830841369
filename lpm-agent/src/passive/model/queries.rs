//! Queries and their answers: ICMP echo and DNS.

use std::{collections::BTreeMap, io, sync::Arc};

use lpm_common::{
    layout::{
        DNS_UNANSWERED, Family, ICMP_UNANSWERED, Leg, NOWHERE, Phase, QueryEntry, Rcode, timeout_ns,
    },
    query::{CLAIMS, Outstanding},
};

use super::{Counts, Labels, Model, Ordering, place};
use crate::kernel::maps::{PER_ROW, WAYS};
use crate::passive::{clock::monotonic_ns, window::claim};

/// Time after a query's timeout before it is counted as unanswered. By then no answer in time is
/// still being counted.
const SLACK_NS: u64 = 1_000_000_000;

/// The counts of ICMP echo in the kernel's histograms.
#[derive(Clone, Debug, Default)]
pub struct Echoes {
    /// Round trips of the rows in which each exchange is counted once.
    pub by_labels: BTreeMap<(Labels, Leg), Counts>,
    /// Number of all samples, those at other vantages included.
    pub samples: u64,
}

/// The counts of DNS in the kernel's histograms.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// Times from query to answer, by namespace of the asking end and response code.
    pub by_namespace: BTreeMap<(Arc<str>, Rcode), Counts>,
    /// Queries without an answer in time, by namespace.
    pub unanswered: BTreeMap<Arc<str>, u64>,
    /// Number of all samples, those at other vantages included.
    pub samples: u64,
}

impl Model {
    /// Round trips of ICMP echo.
    #[must_use]
    pub fn echoes(&self) -> Echoes {
        let (by_labels, samples) = self.by_leg(Family::Icmp);
        Echoes { by_labels, samples }
    }

    /// Times of a family whose rows have one histogram per leg, by labels and leg, and their number
    /// at all vantages.
    pub(super) fn by_leg(&self, family: Family) -> (BTreeMap<(Labels, Leg), Counts>, u64) {
        let _whole = self.reading();
        let (mut by_labels, mut samples) = (BTreeMap::<_, Counts>::new(), 0);
        for (row, labels) in self.rows_of(family) {
            for leg in [Leg::Remote, Leg::Local] {
                let counts = self.row_counts(row, leg, 0);
                samples += counts.count();
                if let Some(labels) = labels.as_ref().filter(|_| !counts.is_empty()) {
                    let all = by_labels.entry((labels.clone(), leg)).or_default();
                    all.add(&counts);
                }
            }
        }
        (by_labels, samples)
    }

    /// Times of DNS answers, and the number of queries without one.
    #[must_use]
    pub fn dns(&self) -> Answers {
        let _whole = self.reading();
        let mut found = Answers::default();
        for (row, labels) in self.rows_of(Family::Dns) {
            for rcode in Rcode::ALL {
                let counts = self.counts_at(row, rcode as usize);
                found.samples += counts.count();
                if let Some(labels) = labels.as_ref().filter(|_| !counts.is_empty()) {
                    let key = (Arc::clone(&labels.namespace), rcode);
                    found.by_namespace.entry(key).or_default().add(&counts);
                }
            }
            if let Some(labels) = labels {
                let unanswered = self.unanswered_at(row, DNS_UNANSWERED.into());
                *found.unanswered.entry(labels.namespace).or_default() += unanswered;
            }
        }
        found
    }

    /// Echo requests without a reply in time, by labels and leg.
    #[must_use]
    pub fn unanswered_echoes(&self) -> BTreeMap<(Labels, Leg), u64> {
        let _whole = self.reading();
        let mut all = BTreeMap::new();
        for (row, labels) in self.rows_of(Family::Icmp) {
            let Some(labels) = labels else { continue };
            for leg in [Leg::Remote, Leg::Local] {
                let at = leg as usize * (PER_ROW / 2);
                let unanswered = self.unanswered_at(row, at + usize::from(ICMP_UNANSWERED));
                let asked = unanswered > 0 || !self.counts_at(row, at).is_empty();
                if asked {
                    *all.entry((labels.clone(), leg)).or_default() += unanswered;
                }
            }
        }
        all
    }

    /// Counts the queries whose time is up, and frees them. They go into the histogram rows where
    /// the kernel counts queries whose entries it gives to others.
    ///
    /// # Errors
    /// The kernel's map of claims cannot be written, or a clock cannot be read.
    pub fn count_unanswered(&self) -> io::Result<()> {
        let now = monotonic_ns()?;
        for index in 0..self.tables.query_count() {
            let Some(entry) = self.tables.query(index) else {
                break;
            };
            if !is_overdue(entry, now) {
                continue;
            }
            let set = CLAIMS | u32::try_from(index / WAYS).map_err(io::Error::other)?;
            claim(&*self.tables, set)?;
            // The kernel may have given the entry away meanwhile.
            if is_overdue(entry, now) {
                self.count_one(entry);
            }
            self.tables.release(set)?;
        }
        Ok(())
    }

    /// Number of queries that wait for their answers.
    pub(super) fn waiting(&self) -> u64 {
        let entries = (0..self.tables.query_count()).filter_map(|index| self.tables.query(index));
        let open =
            |entry: &&QueryEntry| Phase::of(entry.state.load(Ordering::Relaxed)) == Phase::Open;
        entries.filter(open).count() as u64
    }

    fn count_one(&self, entry: &QueryEntry) {
        let row = entry.row.load(Ordering::Relaxed) as usize;
        let at = entry.unanswered.load(Ordering::Relaxed);
        if row != super::OVERFLOW_ROW && at != NOWHERE {
            let index = place(self.tables.row_count(), 0, row, 0, at.into());
            if let Some(histogram) = self.tables.histogram(index) {
                histogram.words[0].fetch_add(1, Ordering::Relaxed);
            }
        }
        // All earlier sendings of the query end with it, too.
        let state = Outstanding::none(Phase::Counted);
        entry.state.store(state.0, Ordering::Relaxed);
    }

    /// The rows of a family. Those in which each exchange is counted once have labels.
    fn rows_of(&self, family: Family) -> impl Iterator<Item = (usize, Option<Labels>)> {
        (1..self.used_rows()).filter_map(move |row| {
            let pair = self.row_pair(row)?;
            (pair.family() == Some(family)).then(|| (row, self.labels(pair)))
        })
    }

    fn counts_at(&self, row: usize, at: usize) -> Counts {
        let mut counts = Counts::default();
        for stripe in 0..self.tables.stripes() {
            let index = place(self.tables.row_count(), stripe, row, 0, at);
            if let Some(histogram) = self.tables.histogram(index) {
                counts.add_kernel(histogram);
            }
        }
        counts
    }

    fn unanswered_at(&self, row: usize, at: usize) -> u64 {
        (0..self.tables.stripes())
            .filter_map(|stripe| {
                let index = place(self.tables.row_count(), stripe, row, 0, at);
                self.tables.histogram(index)
            })
            .map(|histogram| histogram.words[0].load(Ordering::Relaxed))
            .sum()
    }
}

fn is_overdue(entry: &QueryEntry, now: u64) -> bool {
    let state = entry.state.load(Ordering::Acquire);
    let method = entry.method.load(Ordering::Relaxed);
    let age = now.saturating_sub(entry.sent_ns.load(Ordering::Relaxed));
    entry.fingerprint.load(Ordering::Acquire) != 0
        && Phase::of(state) == Phase::Open
        && age > timeout_ns(method) + SLACK_NS
}

#[cfg(test)]
mod tests {
    use lpm_common::layout::{Method, NameId, NameValue, PairKey, PeerKind, Vantage};

    use super::{
        super::tests::{model, observe, tables},
        *,
    };

    fn pod(namespace: u16) -> NameValue {
        NameValue::new(NameId::new(namespace, 0), PeerKind::Pod)
    }

    fn dns(vantage: Vantage) -> PairKey {
        PairKey::new(vantage as u8, pod(1), NameValue::default()).with(Family::Dns)
    }

    #[test]
    fn each_family_has_its_own_rows() {
        let pair = PairKey::new(Vantage::Pod as u8, pod(1), pod(2));
        let tables = tables(&[pair, pair.with(Family::Icmp), dns(Vantage::Pod)]);
        observe(&tables, 2, Leg::Local, 0, 2_000_000);
        let model = model(tables);
        assert_eq!(model.rtt().samples, 1);
        let echoes = model.echoes();
        assert_eq!(echoes.samples, 2);
        let legs: Vec<Leg> = echoes.by_labels.keys().map(|(_, leg)| *leg).collect();
        assert_eq!(legs, [Leg::Remote, Leg::Local]);
        let answers = model.dns();
        let answered: Vec<_> = answers.by_namespace.keys().cloned().collect();
        assert_eq!(answered, [("a".into(), Rcode::NoError)]);
        assert_eq!(answers.unanswered[&Arc::from("a")], 0);
        assert!(model.flow_rtt().is_empty(), "minima are TCP's");
    }

    #[test]
    fn an_exchange_is_counted_at_one_vantage() {
        let model = model(tables(&[dns(Vantage::Pod), dns(Vantage::Nic)]));
        let answers = model.dns();
        assert_eq!(answers.samples, 2);
        let counted: u64 = answers.by_namespace.values().map(Counts::count).sum();
        assert_eq!(counted, 1);
    }

    #[test]
    fn what_is_overdue_is_counted_once() {
        let tables = tables(&[dns(Vantage::Pod)]);
        let now = monotonic_ns().expect("a clock");
        let long_ago = now.saturating_sub(timeout_ns(Method::Dns as u8) + 2 * SLACK_NS);
        let ask = |index: usize, sent: u64, at: u8, state: u32| {
            let entry: &QueryEntry = &tables.queries[index];
            entry.fingerprint.store(7, Ordering::Relaxed);
            entry.method.store(Method::Dns as u8, Ordering::Relaxed);
            entry.sent_ns.store(sent, Ordering::Relaxed);
            entry.row.store(1, Ordering::Relaxed);
            entry.unanswered.store(at, Ordering::Relaxed);
            entry.state.store(state, Ordering::Relaxed);
        };
        let open = Phase::Open as u32;
        let again = Outstanding::none(Phase::Open).and(now);
        ask(0, long_ago, DNS_UNANSWERED, again.0);
        ask(1, now, DNS_UNANSWERED, open);
        ask(2, long_ago, NOWHERE, open);
        ask(3, long_ago, DNS_UNANSWERED, Phase::Answered as u32);
        let model = model(tables);
        assert_eq!(model.waiting(), 3);
        for _ in 0..2 {
            model.count_unanswered().expect("count");
            assert_eq!(model.dns().unanswered[&Arc::from("a")], 1);
        }
        let state = |index: usize| {
            let entry = model.tables.query(index).expect("an entry");
            entry.state.load(Ordering::Relaxed)
        };
        assert_eq!(state(0), Phase::Counted as u32);
        assert_eq!(state(1), open);
        assert_eq!(model.waiting(), 1);
    }
}
