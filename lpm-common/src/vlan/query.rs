//! Matches answers that come in another VLAN than their queries, or in none.
//!
//! A query with a tag stores its VLAN in map `VLAN_PAIRS`. A query without a
//! tag has its entry under the fingerprint by which that element is looked up.
//! The same query in several VLANs at a time (a router between them) counts as
//! several queries, each with an answer in its own VLAN.

use core::sync::atomic::Ordering::Relaxed;

use super::{Pairs, is_worth_it};
use crate::{
    counter::Counter,
    hash::Seeds,
    layout::{Phase, VlanPair},
    packet::Direction,
    query::{self, Queries, Query},
};

/// The query that an answer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Fingerprint of the query's entry.
    pub fingerprint: u64,
    /// VLAN ids that the query is shown with.
    pub segment: u32,
    /// The counter to increase, if any.
    pub counter: Option<Counter>,
}

/// The place for a query's VLAN in a [`VlanPair`], whichever way the query
/// goes.
const LEFT: Direction = Direction::FromLocal;

/// The VLAN stored for a query. If nothing is stored, the query has no tag.
#[inline(always)]
const fn left(pair: VlanPair) -> u32 {
    if pair.0 == VlanPair::NOTHING.0 {
        0
    } else {
        pair.vlan(LEFT)
    }
}

/// Whether a VLAN may have to be stored, or looked up.
#[inline(always)]
pub fn concerns<T: Pairs>(query: &Query, table: &T) -> bool {
    is_worth_it(query.key.segment, table)
}

/// Whether the query still waits for its answer.
#[inline(always)]
fn waits<T: Queries>(table: &T, fingerprint: u64) -> bool {
    match query::find(table, fingerprint) {
        Some(entry) => Phase::of(entry.state.load(Relaxed)) == Phase::Open,
        None => false,
    }
}

/// Stores a query's VLAN.
#[inline(always)]
pub fn ask<H: Seeds + Queries + Pairs>(query: &Query, host: &H) {
    let ends = query.ends(host);
    let key = ends.within(host, 0);
    let vlan = query.key.segment;
    let before = host.pair(key);
    if before == VlanPair::NOTHING && vlan == 0 {
        return;
    }
    let known = left(before);
    let mut pair = VlanPair::of(LEFT, vlan);
    if known != vlan && waits(host, ends.within(host, known)) {
        pair = pair.apart();
    }
    if before != pair {
        host.set_pair(key, pair);
    }
}

/// Finds the query that an answer belongs to. `own` is the fingerprint of the
/// query in the answer's own VLAN.
#[inline(always)]
pub fn answer<H: Seeds + Queries + Pairs>(query: &Query, own: u64, host: &H) -> Asked {
    let here = Asked {
        fingerprint: own,
        segment: query.key.segment,
        counter: None,
    };
    if query::knows(host, own) {
        return here;
    }
    let ends = query.ends(host);
    let key = ends.within(host, 0);
    let pair = host.pair(key);
    let vlan = left(pair);
    let fingerprint = ends.within(host, vlan);
    if vlan == here.segment || !waits(host, fingerprint) {
        return here;
    }
    if pair.is_apart() {
        host.doubtful(query.ifindex);
        return Asked {
            counter: Some(Counter::VlanQuestionAmbiguous),
            ..here
        };
    }
    Asked {
        fingerprint,
        segment: vlan,
        counter: Some(Counter::VlanQuestionJoined),
    }
}
