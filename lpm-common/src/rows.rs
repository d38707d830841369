//! Histogram rows: who talks to whom, seen from which vantage.
//!
//! A flow resolves the names of both its ends at its first sample, and again
//! when the names change. The kernel assigns one row to each pair that really
//! talks, so no sample is counted under a name that came too late.

use core::sync::atomic::Ordering::Relaxed;

use crate::{
    atomic::{AtomicU32, AtomicU64},
    counter::Counter,
    env::{Claims, Env},
    layout::{
        BackendKey, Control, Family, FlowEntry, InterfaceConfig, Leg, Method, NameId, NameValue,
        PairKey, PeerKind, RequestEntry, Vantage, backend_key, tunnel,
    },
    pipeline::Interfaces,
    query::Query,
};

/// The overflow row: it counts what has no row of its own.
pub const OVERFLOW: u32 = 0;

/// The claim under which rows are assigned and freed. No set of the flow table
/// has this number.
pub const CLAIM: u32 = u32::MAX;

/// Attempts at the claim, about 100 ns each.
const CLAIM_ATTEMPTS: u32 = 64;

/// The memory of names and rows.
pub trait Rows: Interfaces + Claims {
    /// Generation of the names; never 0 once names are there.
    fn generation(&self) -> u32;

    /// The name of an address (words in network byte order, IPv4 mapped).
    fn name(&self, address: [u32; 4]) -> Option<NameValue>;

    /// Owner of the backend that a connection really goes to, if its remote
    /// address stands for others (a service address). None: nobody has told.
    fn backend(&self, of: &BackendKey) -> Option<NameId>;

    /// The row of a pair, if it has one.
    fn row(&self, pair: PairKey) -> Option<u32>;

    /// Assigns a row to the pair. None: all rows are in use, or all that
    /// [`beyond`] leaves to such pairs. Called under a claim.
    fn assign(&self, pair: PairKey) -> Option<u32>;
}

/// The memory from which rows are assigned.
pub trait Slots {
    /// Number of rows, the overflow row included.
    fn rows(&self) -> u32;

    /// The control block.
    fn control(&self) -> Option<&Control>;

    /// The label set of a row; None: there is no such row.
    fn label(&self, row: u32) -> Option<&AtomicU64>;

    /// Makes [`Rows::row`] find the pair's row; false: it cannot.
    fn bind(&self, pair: PairKey, row: u32) -> bool;
}

/// Assigns a row to the pair: one that is free again, or the next unused one;
/// see [`Rows::assign`].
#[inline(always)]
pub fn give<S: Slots>(pair: PairKey, slots: &S) -> Option<u32> {
    let control = slots.control()?;
    let end = beyond(pair, slots.rows());
    // The agent keeps the free rows in order: if this one is beyond the pair's
    // part, so are all others.
    let free = control.free_row.load(Relaxed);
    if free != 0 && free < end {
        let label = slots.label(free)?;
        let before = label.load(Relaxed);
        label.store(pair.0, Relaxed);
        if !slots.bind(pair, free) {
            label.store(before, Relaxed);
            return None;
        }
        let next = (before & 0xffff_ffff) as u32;
        control.free_row.store(next, Relaxed);
        return Some(free);
    }
    // Row 0 is the overflow row.
    let row = control.next_row.load(Relaxed).max(1);
    if row >= end {
        return None;
    }
    slots.label(row)?.store(pair.0, Relaxed);
    if !slots.bind(pair, row) {
        return None;
    }
    control.next_row.store(row + 1, Relaxed);
    Some(row)
}

/// The flow's row, if it was resolved with the current names.
#[inline(always)]
pub fn known<R: Rows>(entry: &FlowEntry, rows: &R) -> Option<u32> {
    let generation = rows.generation() << 16;
    let known = entry.row.load(Relaxed);
    (known & 0xffff_0000 == generation && generation != 0).then_some(known & 0xffff)
}

/// The flow's row as it was at its last sample.
#[inline(always)]
#[must_use]
pub fn last(entry: &FlowEntry) -> u32 {
    entry.row.load(Relaxed) & 0xffff
}

/// The flow's row; it is resolved first if the names have changed.
#[inline(always)]
pub fn of_flow<R: Rows, E: Env>(entry: &FlowEntry, rows: &R, env: &E) -> u32 {
    if let Some(row) = known(entry, rows) {
        return row;
    }
    let generation = rows.generation() << 16;
    let mut settled = true;
    let Some(row) = resolve(entry, rows, env, &mut settled) else {
        return OVERFLOW;
    };
    let generation = if settled { generation } else { 0 };
    entry.row.store(generation | row, Relaxed);
    row
}

/// The row of a flow's requests; it is resolved first if the names have
/// changed.
#[inline(always)]
pub fn of_request<R: Rows, E: Env>(
    entry: &FlowEntry,
    request: &RequestEntry,
    rows: &R,
    env: &E,
) -> u32 {
    let generation = rows.generation() << 16;
    let known = request.row.load(Relaxed);
    if known & 0xffff_0000 == generation && generation != 0 {
        return known & 0xffff;
    }
    // The pair is one of whole namespaces: their members would cost rows, and
    // the workload behind a service may not be known yet.
    let pair = pair_of(entry, rows, env, &mut true);
    let pair = pair.whole().with(Family::Request);
    let Some(row) = row_of(pair, rows, env) else {
        return OVERFLOW;
    };
    request.row.store(generation | row, Relaxed);
    row
}

/// The name of an address that has none.
const NOBODY: NameValue = NameValue::new(NameId(0), PeerKind::External);

/// The first row, of `rows`, that the pair may not have. Pairs that tell
/// members of namespaces apart leave a quarter of the rows to pairs of whole
/// namespaces.
#[inline(always)]
#[must_use]
pub fn beyond(pair: PairKey, rows: u32) -> u32 {
    if pair == pair.whole() {
        rows
    } else {
        rows - rows.div_ceil(4)
    }
}

/// The name of the local end, where the interface's settings fix it.
#[inline(always)]
fn fixed(config: InterfaceConfig) -> Option<NameValue> {
    (config.local_kind != 0).then_some(NameValue {
        id: config.local,
        kind: config.local_kind,
        own: 0,
        stands: 0,
        reserved: 0,
    })
}

/// The row of a query; 0: it has none of its own, which is counted.
#[inline(always)]
pub fn of_query<R: Rows, E: Env>(query: &Query, rows: &R, env: &E) -> u32 {
    let config = rows.config(query.ifindex).unwrap_or_default();
    let local = if let Some(fixed) = fixed(config) {
        fixed
    } else {
        let name = rows.name(query.key.local).unwrap_or(NOBODY);
        let own = u8::from(name.own != 0 && is_hosts_question(query, config, env));
        NameValue { own, ..name }
    };
    let dns = query.head.method == Method::Dns as u8;
    let remote = if dns {
        NameValue::default()
    } else {
        rows.name(query.key.remote).unwrap_or(NOBODY)
    };
    let family = if dns { Family::Dns } else { Family::Icmp };
    let pair = PairKey::new(config.vantage, local, remote).with(family);
    row_of(pair, rows, env).unwrap_or(OVERFLOW)
}

/// Whether a flow at one of the node's addresses belongs to the node's own
/// sockets. At any vantage but a network card it always does.
fn is_hosts<E: Env>(entry: &FlowEntry, env: &E) -> bool {
    entry.cold.vantage() != Vantage::Nic as u8 || entry.cold.is_hosts() || env.has_socket(entry)
}

/// Whether a query at one of the node's addresses is the node's own. The node
/// itself answers a query that comes from afar.
#[inline(always)]
fn is_hosts_question<E: Env>(query: &Query, config: InterfaceConfig, env: &E) -> bool {
    let key = &query.key;
    config.vantage != Vantage::Nic as u8
        || query.head.leg != Leg::Remote as u8
        || env.asked_here(key.local, key.local_port)
}

/// The words of a flow's address.
#[inline(always)]
fn address([a, b, c, d]: &[AtomicU32; 4]) -> [u32; 4] {
    [
        a.load(Relaxed),
        b.load(Relaxed),
        c.load(Relaxed),
        d.load(Relaxed),
    ]
}

/// The name of the remote end. Connection tracking tells the agent of a
/// connection when it begins, so a moment after its first packet. `settled`
/// becomes false while the backend may still become known.
#[inline(always)]
fn remote<R: Rows, E: Env>(entry: &FlowEntry, rows: &R, env: &E, settled: &mut bool) -> NameValue {
    let cold = &entry.cold;
    let there = address(&cold.remote);
    let name = rows.name(there).unwrap_or(NOBODY);
    if name.stands == 0 {
        return name;
    }
    let local = (address(&cold.local), cold.local_port.load(Relaxed));
    let key = backend_key(local, (there, cold.remote_port.load(Relaxed)));
    if let Some(id) = rows.backend(&key) {
        return NameValue { id, ..name };
    }
    *settled = env.since(cold.first_seen.load(Relaxed)) >= env.hz() * 2;
    name
}

fn resolve<R: Rows, E: Env>(
    entry: &FlowEntry,
    rows: &R,
    env: &E,
    settled: &mut bool,
) -> Option<u32> {
    row_of(pair_of(entry, rows, env, settled), rows, env)
}

/// The label set of a flow. `settled` becomes false while it may still change.
#[inline(always)]
fn pair_of<R: Rows, E: Env>(entry: &FlowEntry, rows: &R, env: &E, settled: &mut bool) -> PairKey {
    let cold = &entry.cold;
    let remote = remote(entry, rows, env, settled);
    let config = rows.config(cold.ifindex.load(Relaxed)).unwrap_or_default();
    let local = if let Some(fixed) = fixed(config) {
        fixed
    } else {
        let name = rows.name(address(&cold.local)).unwrap_or(NOBODY);
        // A masqueraded flow has the node's address, too, but belongs to a
        // pod.
        let own = u8::from(name.own != 0 && is_hosts(entry, env));
        NameValue { own, ..name }
    };
    let inside = if tunnel::is_inside(cold.segment.load(Relaxed)) {
        PairKey::INSIDE
    } else {
        0
    };
    PairKey::new(cold.vantage() | inside, local, remote)
}

/// The row of a pair: its own, else that of its namespaces, else the overflow
/// row. None: another CPU was assigning rows all the while, which is counted.
#[inline(always)]
fn row_of<R: Rows, E: Env>(pair: PairKey, rows: &R, env: &E) -> Option<u32> {
    if let Some(row) = rows.row(pair) {
        return Some(row);
    }
    // Flows that begin at once on several CPUs all want the claim. Whoever
    // holds it does so for a microsecond, once per pair.
    let mut claimed = false;
    for _ in 0..CLAIM_ATTEMPTS {
        if rows.claim(CLAIM) {
            claimed = true;
            break;
        }
    }
    if !claimed {
        env.count(Counter::RowsBusy, 1);
        return None;
    }
    let mut row = rows.row(pair).or_else(|| rows.assign(pair));
    if row.is_none() {
        env.count(Counter::RowsFull, 1);
        let whole = pair.whole();
        row = rows.row(whole).or_else(|| rows.assign(whole));
    }
    rows.release(CLAIM);
    Some(row.unwrap_or(OVERFLOW))
}

#[cfg(test)]
mod tests;
