//! The query table: sets of a few entries in one array, like the flow table.

use core::sync::atomic::Ordering::Relaxed;

use super::{Outstanding, Query, Role, dns};
use crate::{
    counter::Counter,
    env::{Claims, Env},
    layout::{FIRST_UNIT_NS, Method, NOWHERE, Phase, QueryEntry, timeout_ns},
    table::{WAYS, crowd, set_of, way},
};

/// Added to a set's number it names the claim for the set. The names below it
/// are those of the flow table's sets.
pub const CLAIMS: u32 = 1 << 31;

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

/// Whether the query has an entry.
#[inline(always)]
pub fn knows<Q: Queries>(table: &Q, fingerprint: u64) -> bool {
    find(table, fingerprint).is_some()
}

/// Length of the message that was announced under this fingerprint, bytes.
#[inline(always)]
pub fn announced<Q: Queries, E: Env>(fingerprint: u64, table: &Q, env: &E) -> Option<u16> {
    let entry = find(table, fingerprint)?;
    let age = env.now_ns().wrapping_sub(entry.sent_ns.load(Relaxed));
    (age <= timeout_ns(Method::Dns as u8)).then(|| entry.first.load(Relaxed))
}

/// Events that are counted separately for each method.
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

/// Remembers a query, or the announcement of a message. `row` is its row of
/// histograms. That there is no entry to be had is counted.
#[inline(always)]
pub fn ask<Q, E>(query: &Query, row: u32, fingerprint: u64, table: &Q, env: &E)
where
    Q: Queries + Claims,
    E: Env,
{
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
        if query.head.role == Role::Asks {
            again(entry, query, row, now, env);
        }
        return;
    }
    let Some(victim) = victim(table, fingerprint, holder_of(query), now) else {
        env.count(Counter::QueriesFull, 1);
        return;
    };
    if Phase::of(victim.state.load(Relaxed)) == Phase::Open {
        // One that may still be answered is lost, not unanswered.
        if waits(victim, now) {
            env.count(Counter::QueriesShare, 1);
        } else {
            unanswered(victim, env);
        }
    }
    env.vacate(&victim.fingerprint);
    fill(victim, query, row, now);
    let (first, phase) = if query.head.role == Role::Asks {
        (first_of(now), Phase::Open)
    } else {
        // The announcement is done with at once, so that it gives way to
        // queries.
        (query.head.length, Phase::Answered)
    };
    victim.first.store(first, Relaxed);
    victim.state.store(Outstanding::none(phase).0, Relaxed);
    env.publish(&victim.fingerprint, fingerprint);
}

/// Takes a query that has an entry already: it was sent again.
#[inline(always)]
fn again<E: Env>(entry: &QueryEntry, query: &Query, row: u32, now: u64, env: &E) {
    let sent = entry.sent_ns.load(Relaxed);
    let state = Outstanding(entry.state.load(Relaxed));
    let timeout = timeout_ns(query.head.method);
    let phase = state.phase();
    if phase == Phase::Open {
        count(env, query, Event::Repeated);
        let waits = now.saturating_sub(sent) <= timeout;
        let asked = first_of(now).wrapping_sub(entry.first.load(Relaxed));
        // Transmissions count as one query for as long as an answer may take
        // from the first one on; then a new query begins.
        if !waits || u64::from(asked) > timeout / FIRST_UNIT_NS + 1 {
            unanswered(entry, env);
            entry.first.store(first_of(now), Relaxed);
        }
        if waits {
            let outstanding = state.at(sent, now).and(sent.wrapping_add(timeout));
            // The doubt is stored before the time: see `answer`.
            entry.state.store(outstanding.0, Relaxed);
            fill(entry, query, row, now);
            return;
        }
    }
    let outstanding = match phase {
        Phase::Answered => state.at(sent, now).with(Phase::Open),
        _ => Outstanding::none(Phase::Open),
    };
    entry.first.store(first_of(now), Relaxed);
    fill(entry, query, row, now);
    entry.state.store(outstanding.0, Relaxed);
}

/// Converts a time to the form of [`QueryEntry::first`].
#[inline(always)]
const fn first_of(now: u64) -> u16 {
    (now / FIRST_UNIT_NS) as u16
}

/// Whether the query may still be answered in time.
#[inline(always)]
fn waits(entry: &QueryEntry, now: u64) -> bool {
    let age = now.saturating_sub(entry.sent_ns.load(Relaxed));
    let open = Phase::of(entry.state.load(Relaxed)) == Phase::Open;
    open && age <= timeout_ns(entry.method.load(Relaxed))
}

/// Number of an interface and a method, which have a share of the table.
#[inline(always)]
const fn holder(ifindex: u32, method: u8) -> u32 {
    ifindex << 4 | method as u32
}

#[inline(always)]
const fn holder_of(query: &Query) -> u32 {
    holder(query.ifindex, query.head.method)
}

#[inline(always)]
fn holder_at(entry: &QueryEntry) -> u32 {
    holder(entry.ifindex.load(Relaxed), entry.method.load(Relaxed))
}

/// The entry of the set that a new query of `asker` may have: a free one, else
/// one that is done with, else one whose time is up. Among equals the oldest
/// one. Else one of the interface and method that crowd the set, as in the flow
/// table.
#[inline(always)]
fn victim<Q: Queries>(table: &Q, fingerprint: u64, asker: u32, now: u64) -> Option<&QueryEntry> {
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
    if best.is_none() {
        best = crowding(table, fingerprint, asker);
    }
    best
}

/// A query of the interface and method that crowd a set of queries that all
/// wait. None: nobody does.
///
/// A function of its own: inlined, its stack would lie below that of the rest.
#[inline(never)]
fn crowding<Q: Queries>(table: &Q, fingerprint: u64, asker: u32) -> Option<&QueryEntry> {
    let first = set_of(fingerprint, table.query_mask()) * WAYS;
    let of = |way: u32| Some(holder_at(table.query(first + way)?));
    let crowd = crowd([of(0)?, of(1)?, of(2)?, of(3)?], asker)?;
    for attempt in 0..WAYS {
        let entry = table.query(first + way(fingerprint, attempt))?;
        if holder_at(entry) == crowd {
            return Some(entry);
        }
    }
    None
}

#[inline(always)]
fn fill(entry: &QueryEntry, query: &Query, row: u32, now: u64) {
    let head = &query.head;
    entry.sent_ns.store(now, Relaxed);
    entry.row.store(row, Relaxed);
    entry.ifindex.store(query.ifindex, Relaxed);
    entry.method.store(head.method, Relaxed);
    entry.unanswered.store(head.unanswered, Relaxed);
}

#[inline(always)]
fn unanswered<E: Env>(entry: &QueryEntry, env: &E) {
    let (row, place) = (entry.row.load(Relaxed), entry.unanswered.load(Relaxed));
    if row != 0 && place != NOWHERE {
        env.unanswered(row, u32::from(place), entry.sent_ns.load(Relaxed));
    }
}

/// A sample of a query and its first answer, which can answer no earlier
/// transmission of the query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// When the answer passed, nanoseconds.
    pub now_ns: u64,
    /// Time since the query passed, nanoseconds.
    pub rtt_ns: u64,
    /// Row of histograms; 0: the query got none.
    pub row: u32,
    /// Interface of the vantage.
    pub ifindex: u32,
    /// Whether there is a sample. Anything else was counted.
    pub found: bool,
}

/// Takes an answer. The first answer to the latest transmission makes a sample,
/// unless it may answer an earlier transmission.
#[inline(always)]
pub fn answer<Q: Queries, E: Env>(query: &Query, fingerprint: u64, table: &Q, env: &E) -> Sample {
    let Some(entry) = find(table, fingerprint) else {
        count(env, query, Event::Unasked);
        return Sample::default();
    };
    // Another CPU that sees the query again stores in another order: one of
    // these three looks tells.
    let sent = entry.sent_ns.load(Relaxed);
    let state = Outstanding(entry.state.load(Relaxed));
    let now = env.now_ns();
    let asked_meanwhile = entry.sent_ns.load(Relaxed) != sent;
    match state.phase() {
        Phase::Open if asked_meanwhile => count(env, query, Event::Ambiguous),
        Phase::Open => return first(entry, query, (state, sent, now), env),
        Phase::Answered => {
            count(env, query, Event::Duplicate);
            if state.any() && !asked_meanwhile {
                entry.state.store(state.at(sent, now).less().0, Relaxed);
            }
        }
        Phase::Counted => count(env, query, Event::Late),
        Phase::Free => count(env, query, Event::Unasked),
    }
    Sample::default()
}

#[inline(always)]
fn first<E: Env>(
    entry: &QueryEntry,
    query: &Query,
    (state, sent, now): (Outstanding, u64, u64),
    env: &E,
) -> Sample {
    let rtt = now.wrapping_sub(sent);
    if rtt > timeout_ns(query.head.method) {
        // The query was, or will be, counted as unanswered. (Or, in a capture,
        // the answer stands before its query.)
        count(env, query, Event::Late);
        return Sample::default();
    }
    let earlier = state.at(sent, now);
    entry.state.store(earlier.with(Phase::Answered).0, Relaxed);
    if query.head.detail & dns::CUT_SHORT != 0 {
        env.count(Counter::DnsTruncated, 1);
    }
    if earlier.any() {
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
