//! Questions and answers: ICMP echo and DNS.

use std::sync::atomic::Ordering::Relaxed;

use lpm_common::{
    counter::Counter,
    env::Env as _,
    hash,
    layout::{Method, NOWHERE, Phase, QueryEntry, timeout_ns},
    packet::{Direction, FlowKey, Meta},
    parse::Network,
    query::{self, Ledger, Queries, Query, Rest, dns},
    table,
};

use super::{
    Engine,
    merged::{Datagrams, datagrams},
};
use crate::replay::bytes::Captured;

/// Questions (ICMP echo, DNS) that wait for their answers at a time, at most, 32 bytes each.
const QUERY_ENTRIES: u32 = 1 << 14;

/// Rows of questions, by method; 0 would be none. The bits above say which ends' they are.
const ICMP_ROW: u32 = 1;
const DNS_ROW: u32 = 2;
const ROW_BITS: u32 = 8;

/// Ends that are told apart while it is not known what the one told the other; a power of two. More
/// share a place.
pub(super) const TOLD: u64 = 1 << 12;

/// Questions that nobody answered in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unanswered {
    /// ICMP echo requests.
    pub icmp: u64,
    /// DNS queries over UDP.
    pub dns: u64,
    /// DNS queries over UDP whose answers may be in packets that could not be read to their end:
    /// not among those.
    pub unknown: u64,
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
        let [icmp, dns, unknown] = [0, 1, 2].map(|what: usize| self.unanswered[what].get());
        Unanswered { icmp, dns, unknown }
    }

    /// Whether a question went unanswered.
    fn is_overdue(&self, entry: &QueryEntry) -> bool {
        let waits = entry.fingerprint.load(Relaxed) != 0
            && Phase::of(entry.state.load(Relaxed)) == Phase::Open
            && entry.unanswered.load(Relaxed) != NOWHERE;
        let sent = entry.sent_ns.load(Relaxed);
        waits && self.now_ns.get().saturating_sub(sent) > timeout_ns(entry.method.load(Relaxed))
    }

    /// Counts one that was sent then; the row says of which method.
    pub(super) fn count_unanswered(&self, row: u32, sent_ns: u64) {
        let is_dns = row & ((1 << ROW_BITS) - 1) == DNS_ROW;
        let told = self.told.get((row >> ROW_BITS) as usize);
        let what = match told {
            Some(told) if is_dns && told.get() >= sent_ns => 2,
            _ => usize::from(is_dns),
        };
        let sum = &self.unanswered[what];
        sum.set(sum.get() + 1);
    }

    /// Where it is kept when one end told the other something that could not be read.
    fn told_at(&self, key: &FlowKey) -> u64 {
        hash::of_key(self, key) & (TOLD - 1)
    }

    /// A datagram's metadata with what the kernel knew of it: how many were put together, and how
    /// long each is. If what it holds cannot be told, it is noted that an answer may be in it.
    pub(super) fn put_together(
        &self,
        bytes: &Captured<'_>,
        meta: &Meta,
        network: &Network,
        direction: Direction,
    ) -> Meta {
        self.segment_size.set(0);
        let Ok((query, rest)) = query::datagram(bytes, network, direction, meta.ifindex, 0) else {
            return *meta;
        };
        if rest == Rest::default() || network.fragment {
            return *meta;
        }
        let captured = bytes.data.get(rest.at as usize..).unwrap_or_default();
        match datagrams(captured, rest.end - rest.at) {
            Datagrams::One => {}
            Datagrams::Several { count, size } => {
                self.segment_size.set(size);
                return Meta {
                    segments: count,
                    ..*meta
                };
            }
            what => {
                if what == Datagrams::Further {
                    self.count(Counter::DnsFurther, 1);
                }
                if query.key.remote_port == dns::PORT && direction == Direction::ToLocal {
                    let told = usize::try_from(self.told_at(&query.key)).ok();
                    if let Some(told) = told.and_then(|at| self.told.get(at)) {
                        told.set(self.now_ns.get());
                    }
                }
            }
        }
        *meta
    }

    /// Forgets all questions, and counts those that went unanswered.
    pub(super) fn clear_questions(&self) {
        for entry in &self.queries {
            if self.is_overdue(entry) {
                self.count_unanswered(entry.row.load(Relaxed), entry.sent_ns.load(Relaxed));
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
        // There are no names; a row says of which method the question is, and whose.
        if query.head.method == Method::Dns as u8 {
            let told = u32::try_from(self.told_at(&query.key)).unwrap_or(0);
            DNS_ROW | told << ROW_BITS
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
