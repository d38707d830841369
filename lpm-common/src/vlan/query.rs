//! Answers that come in another VLAN than their questions, or in none.
//!
//! A question with a tag leaves word of its VLAN; one without has its entry
//! under the fingerprint by which such word is looked for. The same question in
//! several VLANs at a time (a router between them) is several, each with an
//! answer in its own VLAN.

use core::sync::atomic::Ordering::Relaxed;

use super::{Pairs, is_worth_it};
use crate::{
    counter::Counter,
    hash::Seeds,
    layout::{Phase, VlanPair},
    packet::Direction,
    query::{self, Queries, Query},
};

/// The question that an answer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Of the question's entry.
    pub fingerprint: u64,
    /// VLAN ids that it is shown with.
    pub segment: u32,
    /// What is to be counted.
    pub counter: Option<Counter>,
}

/// Where word of a question stands, whichever way it goes.
const LEFT: Direction = Direction::FromLocal;

/// The VLAN of which there is word; without any the question has no tag.
#[inline(always)]
const fn left(pair: VlanPair) -> u32 {
    if pair.0 == VlanPair::NOTHING.0 {
        0
    } else {
        pair.vlan(LEFT)
    }
}

/// Whether there may be word of other VLANs to leave, or to look for.
#[inline(always)]
pub fn concerns<T: Pairs>(query: &Query, table: &T) -> bool {
    is_worth_it(query.key.segment, table)
}

/// Whether it still waits for its answer.
#[inline(always)]
fn waits<T: Queries>(table: &T, fingerprint: u64) -> bool {
    match query::find(table, fingerprint) {
        Some(entry) => Phase::of(entry.state.load(Relaxed)) == Phase::Open,
        None => false,
    }
}

/// Leaves word of a question's VLAN.
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

/// The question that an answer belongs to; `own` is its fingerprint in the
/// answer's own VLAN.
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
