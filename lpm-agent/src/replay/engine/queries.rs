//! Queries and their answers: ICMP echo and DNS.

use std::sync::atomic::Ordering::Relaxed;

use lpm_common::{
    counter::Counter,
    env::Env as _,
    hash,
    layout::{Method, NOWHERE, Phase, QueryEntry, timeout_ns},
    packet::{Direction, FlowKey, Meta},
    parse::Network,
    query::{self, Queries, Query, QueryRecorder, Rest, dns},
    table,
};

use super::{
    Engine,
    merged::{Datagrams, datagrams},
};
use crate::replay::bytes::Captured;

/// Most queries (ICMP echo, DNS) that wait for their answers at a time, 32 bytes each.
const QUERY_ENTRIES: u32 = 1 << 14;

/// Rows of queries, by method. 0 would mean none. The bits above identify the ends.
const ICMP_ROW: u32 = 1;
const DNS_ROW: u32 = 2;
const ROW_BITS: u32 = 8;

/// Number of places for pairs of ends, while it is unknown what one sent the other; a power of two.
/// More pairs share a place.
pub(super) const TOLD: u64 = 1 << 12;

/// Numbers of queries that nobody answered in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unanswered {
    /// ICMP echo requests without a reply.
    pub icmp: u64,
    /// DNS queries over UDP without an answer.
    pub dns: u64,
    /// DNS queries over UDP whose answers may be in packets that could not be read to their end.
    /// They are not counted in `dns`.
    pub unknown: u64,
}

/// Makes the table of queries, in proportion to the flow table.
pub(super) fn table(flow_entries: u32) -> Box<[QueryEntry]> {
    (0..(flow_entries / 4).clamp(16, QUERY_ENTRIES))
        .map(|_| QueryEntry::default())
        .collect()
}

impl Engine {
    /// Numbers of echo requests and DNS queries that were not answered in time. [`Self::clear`]
    /// counts those that still wait, if they were sent long enough before the latest packet.
    #[must_use]
    pub fn unanswered(&self) -> Unanswered {
        let [icmp, dns, unknown] = [0, 1, 2].map(|what: usize| self.unanswered[what].get());
        Unanswered { icmp, dns, unknown }
    }

    /// True if a query went unanswered.
    fn is_overdue(&self, entry: &QueryEntry) -> bool {
        let waits = entry.fingerprint.load(Relaxed) != 0
            && Phase::of(entry.state.load(Relaxed)) == Phase::Open
            && entry.unanswered.load(Relaxed) != NOWHERE;
        let sent = entry.sent_ns.load(Relaxed);
        waits && self.now_ns.get().saturating_sub(sent) > timeout_ns(entry.method.load(Relaxed))
    }

    /// Counts a query that was sent at this time. The row identifies its method.
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

    /// Place for the time at which one end sent the other something that could not be read.
    fn told_at(&self, key: &FlowKey) -> u64 {
        hash::of_key(self, key) & (TOLD - 1)
    }

    /// A datagram's metadata with what the kernel knew: how many datagrams were put together, and
    /// the length of each. If its content cannot be told, the packet is recorded as one that may
    /// hold an answer.
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

    /// Forgets all queries, and counts those that went unanswered.
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
        // The number of entries was made from a u32.
        u32::try_from(self.queries.len()).unwrap_or(table::WAYS) / table::WAYS - 1
    }
}

impl QueryRecorder for Engine {
    fn row(&self, query: &Query) -> u32 {
        // There are no names here. A row identifies the query's method and its ends.
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
