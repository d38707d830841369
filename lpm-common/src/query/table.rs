//! The table of questions: sets of a few ways in one array, like that of the
//! flows.

use core::sync::atomic::Ordering::Relaxed;

use super::{Query, dns};
use crate::{
    counter::Counter,
    env::{Claims, Env},
    layout::{Method, Phase, QueryEntry, REPEATED, timeout_ns},
    table::{WAYS, set_of, way},
};

/// Added to a set's number it names the claim for the set; the claims for sets
/// of the flow table are below.
pub const CLAIMS: u32 = 1 << 31;

/// How long a question that went unanswered is remembered, if nobody needs
/// its entry: sent again within this, its answer is ambiguous.
const MEMORY_NS: u64 = 60_000_000_000;

/// The memory of the table.
pub trait Queries {
    /// The entry with this number, if there is one.
    fn query(&self, index: u32) -> Option<&QueryEntry>;

    /// Number of sets minus 1; the number of sets is a power of two.
    fn query_mask(&self) -> u32;
}

#[inline(always)]
pub(crate) fn find<Q: Queries>(table: &Q, fingerprint: u64) -> Option<&QueryEntry> {
    let first = set_of(fingerprint, table.query_mask()) * WAYS;
    for attempt in 0..WAYS {
        let entry = table.query(first + way(fingerprint, attempt))?;
        if entry.fingerprint.load(Relaxed) == fingerprint {
            return Some(entry);
        }
    }
    None
}

/// Whether the question has an entry.
#[inline(always)]
pub fn knows<Q: Queries>(table: &Q, fingerprint: u64) -> bool {
    find(table, fingerprint).is_some()
}

/// Events that are counted by method.
#[derive(Clone, Copy)]
enum Event {
    Repeated,
    Ambiguous,
    Duplicate,
    Late,
    Unasked,
}

#[inline(always)]
fn count<E: Env>(env: &E, query: &Query, event: Event) {
    let counter = if query.head.method == Method::Dns as u8 {
        match event {
            Event::Repeated => Counter::DnsRepeated,
            Event::Ambiguous => Counter::DnsAmbiguous,
            Event::Duplicate => Counter::DnsDuplicate,
            Event::Late => Counter::DnsLate,
            Event::Unasked => Counter::DnsUnasked,
        }
    } else {
        match event {
            Event::Repeated => Counter::IcmpRepeated,
            Event::Ambiguous => Counter::IcmpAmbiguous,
            Event::Duplicate => Counter::IcmpDuplicate,
            Event::Late => Counter::IcmpLate,
            Event::Unasked => Counter::IcmpUnasked,
        }
    };
    env.count(counter, 1);
}

/// Remembers a question; `row` is its row of histograms. That there is no
/// entry to be had is counted.
#[inline(always)]
pub fn ask<Q, E>(query: &Query, row: u32, fingerprint: u64, table: &Q, env: &E)
where
    Q: Queries + Claims,
    E: Env,
{
    if query.head.detail & dns::FURTHER != 0 {
        env.count(Counter::DnsFurther, 1);
    }
    let set = set_of(fingerprint, table.query_mask());
    if !table.claim(CLAIMS | set) {
        env.count(Counter::QueriesBusy, 1);
        return;
    }
    under_claim(query, row, fingerprint, table, env);
    table.release(CLAIMS | set);
}

#[inline(always)]
fn under_claim<Q: Queries, E: Env>(query: &Query, row: u32, fingerprint: u64, table: &Q, env: &E) {
    let now = env.now_ns();
    if let Some(entry) = find(table, fingerprint) {
        again(entry, query, row, now, env);
        return;
    }
    let Some(victim) = victim(table, fingerprint, now) else {
        env.count(Counter::QueriesFull, 1);
        return;
    };
    if Phase::of(victim.state.load(Relaxed)) == Phase::Open {
        unanswered(victim, env);
    }
    env.vacate(&victim.fingerprint);
    fill(victim, query, row, now, 0);
    env.publish(&victim.fingerprint, fingerprint);
}

/// The same question has an entry.
#[inline(always)]
fn again<E: Env>(entry: &QueryEntry, query: &Query, row: u32, now: u64, env: &E) {
    let state = entry.state.load(Relaxed);
    let age = now.saturating_sub(entry.sent_ns.load(Relaxed));
    let timeout = timeout_ns(query.head.method);
    let phase = Phase::of(state);
    if phase == Phase::Open {
        count(env, query, Event::Repeated);
        if age <= timeout {
            // It is still the one question that waits since it was first sent.
            entry.state.store(state | REPEATED, Relaxed);
            return;
        }
        unanswered(entry, env);
    }
    // An answer to the last time may still be on its way.
    let ambiguous = match phase {
        Phase::Free => false,
        Phase::Answered => state & REPEATED != 0 && age <= timeout,
        Phase::Open | Phase::Counted => age <= MEMORY_NS,
    };
    fill(entry, query, row, now, if ambiguous { REPEATED } else { 0 });
}

/// The entry of the set that a new question may have: a free one, else one
/// that is done with, else one whose time is up; of these the oldest.
#[inline(always)]
fn victim<Q: Queries>(table: &Q, fingerprint: u64, now: u64) -> Option<&QueryEntry> {
    let first = set_of(fingerprint, table.query_mask()) * WAYS;
    let mut best: Option<&QueryEntry> = None;
    let mut best_rank = 0;
    for attempt in 0..WAYS {
        let entry = table.query(first + way(fingerprint, attempt))?;
        if entry.fingerprint.load(Relaxed) == 0 {
            return Some(entry);
        }
        let age = now.saturating_sub(entry.sent_ns.load(Relaxed));
        let open = Phase::of(entry.state.load(Relaxed)) == Phase::Open;
        let waits = open && age <= timeout_ns(entry.method.load(Relaxed));
        let rank = u64::from(!open) << 62 | (age & ((1 << 62) - 1)) | 1;
        if !waits && rank >= best_rank {
            best = Some(entry);
            best_rank = rank;
        }
    }
    best
}

#[inline(always)]
fn fill(entry: &QueryEntry, query: &Query, row: u32, now: u64, flags: u32) {
    let head = &query.head;
    entry.sent_ns.store(now, Relaxed);
    entry.row.store(row, Relaxed);
    entry.ifindex.store(query.ifindex, Relaxed);
    entry.method.store(head.method, Relaxed);
    entry.unanswered.store(head.unanswered, Relaxed);
    entry.state.store(Phase::Open as u32 | flags, Relaxed);
}

#[inline(always)]
fn unanswered<E: Env>(entry: &QueryEntry, env: &E) {
    let (row, place) = (entry.row.load(Relaxed), entry.unanswered.load(Relaxed));
    if row != 0 && place != crate::layout::NOWHERE {
        env.unanswered(row, u32::from(place));
    }
}

/// A sample: a question asked once, and its first answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// When the answer passed, nanoseconds.
    pub now_ns: u64,
    /// Since the question, nanoseconds.
    pub rtt_ns: u64,
    /// Row of histograms; 0: there was none to be had.
    pub row: u32,
    /// Interface of the vantage.
    pub ifindex: u32,
    /// Whether it is one at all; what else it was is counted.
    pub found: bool,
}

/// Takes an answer: the first one to a question asked once is a sample.
#[inline(always)]
pub fn answer<Q: Queries, E: Env>(query: &Query, fingerprint: u64, table: &Q, env: &E) -> Sample {
    if query.head.detail & dns::FURTHER != 0 {
        env.count(Counter::DnsFurther, 1);
    }
    let Some(entry) = find(table, fingerprint) else {
        count(env, query, Event::Unasked);
        return Sample::default();
    };
    let state = entry.state.load(Relaxed);
    match Phase::of(state) {
        Phase::Answered => count(env, query, Event::Duplicate),
        Phase::Counted => count(env, query, Event::Late),
        Phase::Free => count(env, query, Event::Unasked),
        Phase::Open => return first(entry, query, state, env),
    }
    Sample::default()
}

#[inline(always)]
fn first<E: Env>(entry: &QueryEntry, query: &Query, state: u32, env: &E) -> Sample {
    let now = env.now_ns();
    let rtt = now.wrapping_sub(entry.sent_ns.load(Relaxed));
    if rtt > timeout_ns(query.head.method) {
        // It was, or will be, counted as unanswered. (Or, in a capture, it
        // stands before its question.)
        count(env, query, Event::Late);
        return Sample::default();
    }
    let flags = state & REPEATED;
    entry.state.store(Phase::Answered as u32 | flags, Relaxed);
    if query.head.detail & dns::CUT_SHORT != 0 {
        env.count(Counter::DnsTruncated, 1);
    }
    if flags != 0 {
        count(env, query, Event::Ambiguous);
        return Sample::default();
    }
    Sample {
        now_ns: now,
        rtt_ns: rtt,
        row: entry.row.load(Relaxed),
        ifindex: entry.ifindex.load(Relaxed),
        found: true,
    }
}
