//! Questions and answers: ICMP echo and DNS.

use std::sync::atomic::Ordering::Relaxed;

use lpm_common::{
    layout::{Method, NOWHERE, Phase, QueryEntry, timeout_ns},
    query::{self, Ledger, Queries, Query},
    table,
};

use super::Engine;

/// Questions (ICMP echo, DNS) that wait for their answers at a time, at most, 32 bytes each.
const QUERY_ENTRIES: u32 = 1 << 14;

/// Rows of questions, by method; 0 would be none.
const ICMP_ROW: u32 = 1;
const DNS_ROW: u32 = 2;

/// Questions that nobody answered in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unanswered {
    /// ICMP echo requests.
    pub icmp: u64,
    /// DNS queries over UDP.
    pub dns: u64,
}

/// The table of questions, in proportion to that of flows.
pub(super) fn table(flow_entries: u32) -> Box<[QueryEntry]> {
    (0..(flow_entries / 4).clamp(16, QUERY_ENTRIES))
        .map(|_| QueryEntry::default())
        .collect()
}

impl Engine {
    /// Echo requests and DNS queries that were not answered in time. Those still waiting are
    /// counted by [`Self::clear`], if they were asked long enough before the latest packet.
    #[must_use]
    pub fn unanswered(&self) -> Unanswered {
        let [icmp, dns] = [0, 1].map(|method: usize| self.unanswered[method].get());
        Unanswered { icmp, dns }
    }

    /// Whether a question went unanswered.
    fn is_overdue(&self, entry: &QueryEntry) -> bool {
        let waits = entry.fingerprint.load(Relaxed) != 0
            && Phase::of(entry.state.load(Relaxed)) == Phase::Open
            && entry.unanswered.load(Relaxed) != NOWHERE;
        let sent = entry.sent_ns.load(Relaxed);
        waits && self.now_ns.get().saturating_sub(sent) > timeout_ns(entry.method.load(Relaxed))
    }

    /// Counts one; the row says of which method.
    pub(super) fn count_unanswered(&self, row: u32) {
        let sum = &self.unanswered[usize::from(row == DNS_ROW)];
        sum.set(sum.get() + 1);
    }

    /// Forgets all questions, and counts those that went unanswered.
    pub(super) fn clear_questions(&self) {
        for entry in &self.queries {
            if self.is_overdue(entry) {
                self.count_unanswered(entry.row.load(Relaxed));
            }
            entry.fingerprint.store(0, Relaxed);
        }
    }
}

impl Queries for Engine {
    fn query(&self, index: u32) -> Option<&QueryEntry> {
        self.queries.get(index as usize)
    }

    fn query_mask(&self) -> u32 {
        // As many as a u32 counted were made.
        u32::try_from(self.queries.len()).unwrap_or(table::WAYS) / table::WAYS - 1
    }
}

impl Ledger for Engine {
    fn row(&self, query: &Query) -> u32 {
        // There are no names; a row says of which method the question is.
        if query.head.method == Method::Dns as u8 {
            DNS_ROW
        } else {
            ICMP_ROW
        }
    }

    fn answered(&self, query: &Query, sample: &query::Sample) {
        let record = query::record(query, sample, self.vantage.get());
        self.count_zero(record.rtt_ns == 0);
        self.samples.borrow_mut().push(record);
    }
}
