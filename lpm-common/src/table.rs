//! The flow table: sets of a few ways in one array.
//!
//! A flow's fingerprint names its set and the way that is tried first. While
//! the table is not crowded, a packet finds its flow in the first cache line
//! that it reads. Entries are made under a claim for the whole set. Nothing
//! sweeps the table: a closed or idle flow gives up its entry when a new flow
//! needs it.

use core::sync::atomic::Ordering::Relaxed;

use crate::{
    counter::Counter,
    env::{Claims, Env},
    layout::{FlowEntry, RequestEntry, Traffic},
    matcher::state,
    packet::{Direction, FlowKey, TcpHead},
};

/// Number of entries in a set.
pub const WAYS: u32 = 4;

/// The memory of the table.
pub trait Table {
    /// The entry with this number, if there is one.
    fn entry(&self, index: u32) -> Option<&FlowEntry>;

    /// Number of sets minus 1; the number of sets is a power of two.
    fn set_mask(&self) -> u32;

    /// Jiffies without a packet after which an established flow is idle.
    fn idle_jiffies(&self) -> u32;

    /// The request entry of the flow entry with this number. None: the method
    /// `request` is off.
    fn request(&self, _index: u32) -> Option<&RequestEntry> {
        None
    }
}

/// The number of the set that a fingerprint belongs to.
#[inline(always)]
#[must_use]
pub fn set_of(fingerprint: u64, set_mask: u32) -> u32 {
    (fingerprint >> 32) as u32 & set_mask
}

/// The number of the entry in its set that this attempt tries.
#[inline(always)]
pub(crate) fn way(fingerprint: u64, attempt: u32) -> u32 {
    (fingerprint as u32).wrapping_add(attempt) % WAYS
}

/// The entry of a flow, if it has one.
#[inline(always)]
pub fn find<T: Table>(table: &T, fingerprint: u64) -> Option<&FlowEntry> {
    let first = set_of(fingerprint, table.set_mask()) * WAYS;
    for attempt in 0..WAYS {
        let entry = table.entry(first + way(fingerprint, attempt))?;
        if entry.fingerprint.load(Relaxed) == fingerprint {
            return Some(entry);
        }
    }
    None
}

/// The flow entry and the request entry of a flow, if it has both.
#[inline(always)]
pub fn find_request<T: Table>(table: &T, fingerprint: u64) -> Option<(&FlowEntry, &RequestEntry)> {
    let first = set_of(fingerprint, table.set_mask()) * WAYS;
    for attempt in 0..WAYS {
        let index = first + way(fingerprint, attempt);
        let entry = table.entry(index)?;
        if entry.fingerprint.load(Relaxed) == fingerprint {
            return Some((entry, table.request(index)?));
        }
    }
    None
}

/// What is known of a flow when it appears.
#[derive(Clone, Copy, Debug)]
pub struct NewFlow {
    /// The flow's key.
    pub key: FlowKey,
    /// Interface that the flow is shown at: that of its key, or at the vantage
    /// `node`, which covers several hooks, that of its local end.
    pub ifindex: u32,
    /// Number of the [`crate::layout::Vantage`] of the interface; 0: unknown.
    pub vantage: u8,
    /// Whether this packet is the flow's SYN.
    pub opened: bool,
}

/// Makes a flow entry, or restarts the flow in the entry that it has if the
/// packet is its SYN. None: there is no entry to be had, which is counted.
#[inline(always)]
pub fn find_or_insert<'t, T: Table, C: Claims, E: Env>(
    table: &'t T,
    claims: &C,
    env: &E,
    fingerprint: u64,
    birth: &NewFlow,
) -> Option<&'t FlowEntry> {
    let set = set_of(fingerprint, table.set_mask());
    if !claims.claim(set) {
        env.count(Counter::FlowsBusy, 1);
        return None;
    }
    let entry = under_claim(table, env, fingerprint, birth);
    claims.release(set);
    entry
}

#[inline(always)]
fn under_claim<'t, T: Table, E: Env>(
    table: &'t T,
    env: &E,
    fingerprint: u64,
    birth: &NewFlow,
) -> Option<&'t FlowEntry> {
    // Another CPU may have made the entry since this packet looked.
    if let Some(entry) = find(table, fingerprint) {
        if birth.opened {
            env.count(Counter::FlowReopened, 1);
            evict(entry, env);
            fill(entry, env, fingerprint, birth);
        }
        return Some(entry);
    }
    let Some(victim) = victim(table, env, fingerprint) else {
        env.count(Counter::FlowsFull, 1);
        return None;
    };
    if victim.fingerprint.load(Relaxed) != 0 {
        evict(victim, env);
    }
    env.count(
        if birth.opened {
            Counter::FlowOpened
        } else {
            Counter::FlowJoined
        },
        1,
    );
    fill(victim, env, fingerprint, birth);
    Some(victim)
}

/// Moves an entry from the fingerprint `from` to another of the same set, if
/// only the direction opposite to `direction` was seen in it (`from` 0: moves
/// none). An entry that stood under the new fingerprint is given up. False:
/// nothing was moved.
#[inline(always)]
pub fn rename<T: Table, C: Claims, E: Env>(
    table: &T,
    claims: &C,
    env: &E,
    (from, to): (u64, u64),
    direction: Direction,
) -> bool {
    let set = set_of(to, table.set_mask());
    if !claims.claim(set) {
        env.count(Counter::FlowsBusy, 1);
        return false;
    }
    let entry = if from == 0 { None } else { find(table, from) };
    let entry = entry.filter(|entry| is_unseen(entry, direction));
    if (entry.is_some() || from == 0)
        && let Some(old) = find(table, to)
    {
        evict(old, env);
    }
    if let Some(entry) = entry {
        env.publish(&entry.fingerprint, to);
    }
    claims.release(set);
    entry.is_some()
}

/// Whether the flow has shown no packet of this direction.
#[inline(always)]
#[must_use]
pub fn is_unseen(entry: &FlowEntry, direction: Direction) -> bool {
    entry.hot[direction.index()].traffic.load(Relaxed) == 0
}

/// How readily an entry is given up, and the counter of that; 0: never.
fn readiness(entry: &FlowEntry, idle: bool) -> (u32, Counter) {
    let [from, to] = &entry.hot;
    let (a, b) = (from.state.load(Relaxed), to.state.load(Relaxed));
    if (a | b) & state::RST != 0 || a & b & state::FIN != 0 {
        (3, Counter::EvictedClosed)
    } else if from.traffic.load(Relaxed) == 0 || to.traffic.load(Relaxed) == 0 {
        (2, Counter::EvictedHalfOpen)
    } else if idle {
        (1, Counter::EvictedIdle)
    } else {
        (0, Counter::EvictedIdle)
    }
}

/// The entry of the set that a new flow may have: a free one, else a closed, a
/// half-open or an idle one. Among equals the longest idle one.
fn victim<'t, T: Table, E: Env>(table: &'t T, env: &E, fingerprint: u64) -> Option<&'t FlowEntry> {
    let first = set_of(fingerprint, table.set_mask()) * WAYS;
    let mut best: Option<&FlowEntry> = None;
    let mut best_rank = 0_u64;
    let mut reason = Counter::EvictedIdle;
    for attempt in 0..WAYS {
        let entry = table.entry(first + way(fingerprint, attempt))?;
        if entry.fingerprint.load(Relaxed) == 0 {
            return Some(entry);
        }
        let last = entry.last_seen.load(Relaxed);
        let idle = env.passed(last, table.idle_jiffies());
        let (ready, why) = readiness(entry, idle);
        let rank = u64::from(ready) << 32 | u64::from(env.since(last));
        if ready > 0 && rank >= best_rank {
            best = Some(entry);
            best_rank = rank;
            reason = why;
        }
    }
    if best.is_some() {
        env.count(reason, 1);
    }
    best
}

/// Keeps what an entry counted when its flow loses it. The code is inlined: a
/// stack frame of its own would be one more on the deepest chain of calls.
#[inline(always)]
fn evict<E: Env>(entry: &FlowEntry, env: &E) {
    let [from, to] = &entry.hot;
    let mut traffic = Traffic::unpack(from.traffic.load(Relaxed));
    traffic += Traffic::unpack(to.traffic.load(Relaxed));
    env.count(Counter::EvictedPackets, traffic.packets);
    env.count(Counter::EvictedBytes, traffic.bytes);
    env.retire(entry);
    env.vacate(&entry.fingerprint);
}

/// Fills the entry for a new flow. The fingerprint is cleared first ([`evict`])
/// and stored last, so that nobody takes one flow's figures for another's.
fn fill<E: Env>(entry: &FlowEntry, env: &E, fingerprint: u64, birth: &NewFlow) {
    let now = env.jiffies();
    entry.row.store(0, Relaxed);
    entry.last_seen.store(now, Relaxed);
    for hot in &entry.hot {
        hot.traffic.store(0, Relaxed);
        hot.tsval.store(0, Relaxed);
        hot.tsecr.store(0, Relaxed);
        hot.state.store(0, Relaxed);
        hot.seq_end.store(0, Relaxed);
    }
    for slots in &entry.slots {
        for stamp in &slots.stamps {
            stamp.store(0, Relaxed);
        }
        slots.gap.store(0, Relaxed);
        slots.full_segment.store(0, Relaxed);
        slots.samples.store(0, Relaxed);
        for statistic in [&slots.window_min, &slots.last, &slots.smoothed] {
            statistic.store(u32::MAX, Relaxed);
        }
    }
    let cold = &entry.cold;
    for i in 0..4 {
        cold.local[i].store(birth.key.local[i], Relaxed);
        cold.remote[i].store(birth.key.remote[i], Relaxed);
    }
    cold.local_port.store(birth.key.local_port, Relaxed);
    cold.remote_port.store(birth.key.remote_port, Relaxed);
    cold.ifindex.store(birth.ifindex, Relaxed);
    cold.segment.store(birth.key.segment, Relaxed);
    cold.set_birth(birth.vantage, birth.opened);
    cold.set_outer_vni(birth.key.wrap.outer_vni);
    cold.first_seen.store(now, Relaxed);
    for mss in &cold.announced_mss {
        mss.store(0, Relaxed);
    }
    env.publish(&entry.fingerprint, fingerprint);
}

/// The most data that a SYN brings along, bytes (RFC 7413): one segment.
pub(crate) const DATA_ON_SYN: u32 = 1 << 13;

/// Whether a SYN starts the flow anew. It does not if it repeats the SYN
/// before, or is the other half of a simultaneous open (RFC 9293 section 3.5).
#[inline(always)]
#[must_use]
pub fn restarts(entry: &FlowEntry, direction: Direction, head: &TcpHead) -> bool {
    let own = &entry.hot[direction.index()];
    let state = own.state.load(Relaxed);
    let other = entry.hot[direction.reverse().index()].state.load(Relaxed);
    if (state | other) & state::CLOSING != 0 {
        return true;
    }
    if state & state::HAS_SEQ == 0 {
        return other & state::HANDSHAKE == 0;
    }
    let since = own.seq_end.load(Relaxed).wrapping_sub(head.seq);
    // Nothing came after the last SYN, except the data that came with it.
    let again = since == 1 || (state & state::HANDSHAKE != 0 && since <= DATA_ON_SYN);
    !again
}
