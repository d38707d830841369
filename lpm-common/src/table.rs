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
    layout::{DirectionHot, FlowEntry, RequestEntry, Traffic},
    matcher::state,
    packet::{Direction, FlowKey, TcpHead, flag},
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
    let mut victim = victim(table, env, fingerprint);
    if victim.is_none() {
        victim = crowding(table, (fingerprint, birth.ifindex));
        env.count(
            if victim.is_some() {
                Counter::EvictedShare
            } else {
                Counter::FlowsFull
            },
            1,
        );
    }
    let victim = victim?;
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

/// How readily an entry is given up, and the counter of that; 0: not, unless
/// its interface holds more than its share ([`crowding`]).
///
/// A flow is half-open until the end that opened it has acknowledged the answer
/// to its SYN (RFC 9293 section 3.5): anybody can send SYNs to an open port and
/// leave the answers alone.
fn readiness(entry: &FlowEntry, idle: bool) -> (u32, Counter) {
    let [from, to] = &entry.hot;
    let (a, b) = (from.state.load(Relaxed), to.state.load(Relaxed));
    let one_sided = from.traffic.load(Relaxed) == 0 || to.traffic.load(Relaxed) == 0;
    if (a | b) & state::RST != 0 || a & b & state::FIN != 0 {
        (3, Counter::EvictedClosed)
    } else if one_sided || a & b & state::HANDSHAKE != 0 {
        (2, Counter::EvictedHalfOpen)
    } else if idle {
        (1, Counter::EvictedIdle)
    } else {
        (0, Counter::EvictedIdle)
    }
}

/// The entry of the set that a new flow may have: a free one, else a closed, a
/// half-open or an idle one. Among equals the longest idle one. None: see
/// [`crowding`].
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

/// An entry of the interface that crowds a set of active flows: it holds three
/// entries or all, and at least two more than the interface that needs one.
/// None: nobody does.
///
/// The rule looks at the set alone. Sets are drawn by a secret hash, so an
/// interface that holds most of the table holds most of nearly each set. Counts
/// per interface would be one more thing that a restart or a race could leave
/// wrong.
///
/// A function of its own: inlined, its stack would lie below that of [`victim`].
#[inline(never)]
fn crowding<T: Table>(table: &T, (fingerprint, ifindex): (u64, u32)) -> Option<&FlowEntry> {
    let first = set_of(fingerprint, table.set_mask()) * WAYS;
    let holder = |way: u32| {
        let entry = table.entry(first + way)?;
        Some(entry.cold.ifindex.load(Relaxed))
    };
    let crowd = crowd([holder(0)?, holder(1)?, holder(2)?, holder(3)?], ifindex)?;
    for attempt in 0..WAYS {
        let entry = table.entry(first + way(fingerprint, attempt))?;
        if entry.cold.ifindex.load(Relaxed) == crowd {
            return Some(entry);
        }
    }
    None
}

/// The one of the `holders` of a set that has three entries or all, and at
/// least two more than `other` has.
#[inline(always)]
pub(crate) fn crowd(holders: [u32; WAYS as usize], other: u32) -> Option<u32> {
    let [a, b, c, d] = holders;
    // If three of four are the same, then the first two are, or the last two.
    let most = if a == b { a } else { c };
    let has = |one: u32| same(a, one) + same(b, one) + same(c, one) + same(d, one);
    let held = has(most);
    (held >= 3 && held >= has(other) + 2).then_some(most)
}

/// 1 if two numbers are equal, else 0. It has no jump: to the verifier each
/// jump would be one more path.
#[inline(always)]
const fn same(a: u32, b: u32) -> u32 {
    let differs = a ^ b;
    1 ^ (differs | differs.wrapping_neg()) >> 31
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
    for stale in &cold.stale {
        stale.store(0, Relaxed);
    }
    env.publish(&entry.fingerprint, fingerprint);
}

/// The most data that a SYN brings along, bytes (RFC 7413): one segment.
pub(crate) const DATA_ON_SYN: u32 = 1 << 13;

/// Whether a SYN starts the flow anew. It does not if it repeats the SYN
/// before, or is the other half of a simultaneous open (RFC 9293 section 3.5).
/// Nor does it while the connection lives: an end takes no SYN then (RFC 5961
/// section 4), so a forged one must not end the flow here. The connection lives
/// if both ends have shown packets, the handshake has ended, none has closed it,
/// and it is not idle.
#[inline(always)]
#[must_use]
pub fn restarts<T: Table, E: Env>(
    entry: &FlowEntry,
    direction: Direction,
    head: &TcpHead,
    (table, env): (&T, &E),
) -> bool {
    let own = &entry.hot[direction.index()];
    let state = own.state.load(Relaxed);
    let other = entry.hot[direction.reverse().index()].state.load(Relaxed);
    if (state | other) & state::CLOSING != 0 {
        return true;
    }
    if state & state::HAS_SEQ == 0 {
        return other & state::HANDSHAKE == 0;
    }
    let lives = state & other & state::HANDSHAKE == 0
        && !is_unseen(entry, direction.reverse())
        && !env.passed(entry.last_seen.load(Relaxed), table.idle_jiffies());
    !repeats(own, state, head) && !lives
}

/// Whether a SYN repeats the last one of its direction: nothing came after it,
/// except the data that came with it.
#[inline(always)]
#[must_use]
pub(crate) fn repeats(own: &DirectionHot, state: u32, head: &TcpHead) -> bool {
    let since = own.seq_end.load(Relaxed).wrapping_sub(head.seq);
    let opens = state & state::HANDSHAKE != 0 && !head.has(flag::ACK);
    since == 1 || (opens && since <= DATA_ON_SYN)
}
