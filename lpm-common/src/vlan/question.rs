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
    env::Env,
    hash::Seeds,
    layout::{Phase, VlanPair},
    packet::Direction,
    query::{self, Queries, Query},
};

/// The fingerprint and the VLAN ids of the question that a query is, or that it
/// answers; `own` is the fingerprint in its own VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Of the question's entry.
    pub fingerprint: u64,
    /// VLAN ids that it is shown with.
    pub segment: u32,
}

/// Where word of a question stands, whichever way it goes.
const LEFT: Direction = Direction::FromLocal;

/// Whether there may be word of other VLANs to leave, or to look for.
#[inline(always)]
pub fn concerns<T: Pairs>(query: &Query, table: &T) -> bool {
    is_worth_it(query.key.segment, table)
}

/// Whether it still waits for its answer.
#[inline(always)]
fn waits<T: Queries>(table: &T, fingerprint: u64) -> bool {
    let state = query::find(table, fingerprint).map(|entry| entry.state.load(Relaxed));
    state.is_some_and(|state| Phase::of(state) == Phase::Open)
}

/// Leaves word of a question's VLAN.
#[inline(always)]
pub fn ask<S, T>(query: &Query, seeds: &S, table: &T)
where
    S: Seeds,
    T: Queries + Pairs,
{
    let ends = query.ends(seeds);
    let key = ends.within(seeds, 0);
    let vlan = query.key.segment;
    let before = table.pair(key);
    let known = match before {
        Some(pair) => pair.vlan(LEFT),
        None if vlan == 0 => return,
        None => 0,
    };
    let mut pair = VlanPair::of(LEFT, vlan);
    if known != vlan && waits(table, ends.within(seeds, known)) {
        pair = pair.apart();
    }
    if before != Some(pair) {
        table.set_pair(key, pair);
    }
}

/// The question that an answer belongs to; `own` is its fingerprint in the
/// answer's own VLAN.
#[inline(always)]
pub fn answer<S, T, E>(query: &Query, own: u64, seeds: &S, table: &T, env: &E) -> Asked
where
    S: Seeds,
    T: Queries + Pairs,
    E: Env,
{
    let here = Asked {
        fingerprint: own,
        segment: query.key.segment,
    };
    if query::knows(table, own) {
        return here;
    }
    let ends = query.ends(seeds);
    let key = ends.within(seeds, 0);
    let pair = table.pair(key);
    let vlan = pair.map_or(0, |pair| pair.vlan(LEFT));
    let fingerprint = ends.within(seeds, vlan);
    if vlan == here.segment || !waits(table, fingerprint) {
        return here;
    }
    if pair.is_some_and(|pair| pair.is_apart()) {
        env.count(Counter::VlanQuestionAmbiguous, 1);
        table.doubtful(query.ifindex);
        return here;
    }
    env.count(Counter::VlanQuestionJoined, 1);
    Asked {
        fingerprint,
        segment: vlan,
    }
}
