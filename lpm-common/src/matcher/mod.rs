//! The timestamp method: stamps and matches in a flow's entry.
//!
//! The first packet with a TSval is stamped if it carries payload; the first
//! packet the other way that echoes the TSval makes the sample. Every rule is
//! one of `design.md` section 3b or of RFC 7323, named where it is applied.

mod echo;
mod stamp;
pub mod state;
mod statistics;
#[cfg(test)]
mod tests;

use core::sync::atomic::Ordering::Relaxed;

pub use statistics::update as update_statistics;

use crate::{
    counter::Counter,
    env::Env,
    layout::{FlowEntry, Traffic, UNIT_NS},
    packet::{Direction, TcpHead, flag},
};

/// Seconds without a packet after which outstanding stamps are void: their
/// 32-bit time would wrap at 275 s.
const VOID_SECONDS: u32 = 200;

/// Size of a packet on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wire {
    /// Segments (`gso_segs`), at least 1.
    pub segments: u32,
    /// Bytes with link-layer headers, of all segments.
    pub bytes: u64,
}

impl Wire {
    /// From the length of the frame in memory, where the headers of a GSO
    /// packet stand once.
    #[inline(always)]
    #[must_use]
    pub fn new(len: u32, segments: u32, headers: u16) -> Self {
        let repeated = u64::from(segments.wrapping_sub(1)).wrapping_mul(u64::from(headers));
        Self {
            segments,
            bytes: u64::from(len) + repeated,
        }
    }
}

/// The clock, read at most once per packet.
pub(crate) struct Clock<'e, E> {
    env: &'e E,
    now_ns: u64,
}

impl<'e, E: Env> Clock<'e, E> {
    #[inline(always)]
    fn new(env: &'e E) -> Self {
        Self { env, now_ns: 0 }
    }

    #[inline(always)]
    fn now_ns(&mut self) -> u64 {
        if self.now_ns == 0 {
            self.now_ns = self.env.now_ns();
        }
        self.now_ns
    }

    /// In [`UNIT_NS`], modulo 2^32.
    #[inline(always)]
    fn units(&mut self) -> u32 {
        (self.now_ns() / UNIT_NS) as u32
    }
}

/// Whether `a` is strictly newer than `b` (RFC 7323 section 5.2: modulo 2^31).
#[inline(always)]
#[must_use]
pub fn newer(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b)).cast_signed() > 0
}

/// Counts a packet of the flow, and stamps and matches what it carries.
/// `fingerprint` is the one under which the entry was found.
///
/// The order is that of the memory: first everything is looked at, so that
/// the misses of a cold flow's lines overlap; the clock and the atomic adds,
/// which wait for all loads before them, come last.
#[inline(always)]
pub fn packet<E: Env>(
    entry: &FlowEntry,
    fingerprint: u64,
    direction: Direction,
    head: &TcpHead,
    wire: Wire,
    env: &E,
) {
    let own = &entry.hot[direction.index()];
    let now = env.jiffies();
    let before = entry.last_seen.load(Relaxed);
    let state = own.state.load(Relaxed);
    // Nearly every packet of a busy flow has nothing new in it.
    let quiet = state & state::RESTLESS == state::HAS_TSVAL
        && head.tsval == own.tsval.load(Relaxed)
        && head.tsecr == own.tsecr.load(Relaxed)
        && head.has_timestamp
        && !head.has_any(flag::SYN | flag::FIN | flag::RST);
    if !quiet {
        if now.wrapping_sub(before) > env.hz().wrapping_mul(VOID_SECONDS) {
            expire(entry, env);
        }
        news(entry, fingerprint, direction, head, env, state);
        if !head.has_timestamp {
            env.count(Counter::NoTimestamp, u64::from(wire.segments));
        }
    }
    if before != now {
        entry.last_seen.store(now, Relaxed);
    }
    let traffic = Traffic {
        packets: u64::from(wire.segments),
        bytes: wire.bytes,
    };
    env.add64(&own.traffic, traffic.pack());
}

/// A packet with something new in it.
#[inline(always)]
fn news<E: Env>(
    entry: &FlowEntry,
    fingerprint: u64,
    direction: Direction,
    head: &TcpHead,
    env: &E,
    mut state: u32,
) {
    if head.has_any(flag::FIN | flag::RST) {
        state = close(entry, direction, head, env, state);
    }
    let own = &entry.hot[direction.index()].state;
    if !head.has_timestamp || head.has(flag::RST) {
        own.store(state, Relaxed);
        return;
    }
    let mut clock = Clock::new(env);
    let mut echo = echo::Found::NONE;
    if head.has(flag::ACK) {
        (echo, state) = echo::find(entry, direction, head, env, state);
    }
    let slot;
    (slot, state) = stamp::find(entry, direction, head, &mut clock, state);
    if slot != stamp::NONE {
        state = stamp::store(entry, direction, head, &mut clock, slot, state);
    }
    // Before the sample goes its way, which may take long: another packet of
    // this direction may be on another CPU at the same time.
    own.store(state, Relaxed);
    if echo.is_some() {
        echo::finish(entry, fingerprint, direction, head, &mut clock, echo);
    }
}

/// Notes the end of the connection: FIN from both ends, or a RST. Returns the
/// direction's new state.
#[inline(always)]
fn close<E: Env>(
    entry: &FlowEntry,
    direction: Direction,
    head: &TcpHead,
    env: &E,
    state: u32,
) -> u32 {
    let other = entry.hot[direction.reverse().index()].state.load(Relaxed);
    if head.has(flag::RST) {
        if (state | other) & state::RST == 0 {
            env.count(Counter::FlowReset, 1);
        }
        return state | state::RST;
    }
    if state & state::FIN == 0 && other & state::FIN != 0 {
        env.count(Counter::FlowFinished, 1);
    }
    state | state::FIN
}

/// Voids all outstanding stamps: the flow was silent for too long.
fn expire<E: Env>(entry: &FlowEntry, env: &E) {
    let mut expired = 0;
    for slots in &entry.slots {
        for stamp in &slots.stamps {
            if stamp.load(Relaxed) != 0 {
                stamp.store(0, Relaxed);
                expired += 1;
            }
        }
    }
    if expired > 0 {
        env.count(Counter::StampExpired, expired);
    }
}
