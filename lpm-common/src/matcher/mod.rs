//! The TCP methods: they stamp packets and match answers in the flow entry.
//!
//! Each method is one file: `ts`, `seq`, `handshake`, `request`. A packet is
//! stamped; the first packet the other way that answers it makes the sample.
//! Every rule is one of the frozen terms or of an RFC, named where it is
//! applied.

mod choice;
mod echo;
mod handshake;
mod request;
mod seq;
mod sequence;
mod slots;
pub mod state;
mod statistics;
#[cfg(test)]
mod tests;
mod ts;
mod window;

use core::{
    hint::cold_path,
    sync::atomic::{
        Ordering::{Acquire, Relaxed},
        compiler_fence,
    },
};

pub use echo::classify;
pub use statistics::update as update_statistics;

use crate::{
    atomic::AtomicU32,
    counter::Counter,
    env::Env,
    layout::{FlowEntry, Method, RequestEntry, Traffic, UNIT_NS},
    packet::{Direction, TcpHead, flag},
};

/// Seconds without a packet after which outstanding stamps are void: their
/// 32-bit time would wrap at 275 s.
const VOID_SECONDS: u32 = 200;

/// Size of a packet on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wire {
    /// Segments (`gso_segs`), at least 1.
    pub segments: u32,
    /// Bytes with link-layer headers, of all segments.
    pub bytes: u64,
}

impl Wire {
    /// Computes the size from the length of the frame in memory, where the
    /// headers of a GSO packet stand once.
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

    /// The time in [`UNIT_NS`], modulo 2^32.
    #[inline(always)]
    fn units(&mut self) -> u32 {
        (self.now_ns() / UNIT_NS) as u32
    }
}

/// Whether `a` is strictly newer than `b` (RFC 7323 section 5.2: modulo 2^31).
#[inline(always)]
#[must_use]
pub fn serial_gt(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b)).cast_signed() > 0
}

/// A packet of a flow, as the fast path and the later steps pass it on.
#[derive(Clone, Copy, Debug)]
pub struct FlowPacket<'e> {
    /// The flow's entry.
    pub entry: &'e FlowEntry,
    /// The fingerprint under which the entry was found.
    pub fingerprint: u64,
    /// Which way the packet goes.
    pub direction: Direction,
    /// The packet's size on the wire.
    pub wire: Wire,
}

impl FlowPacket<'_> {
    #[inline(always)]
    fn state(&self) -> &AtomicU32 {
        &self.entry.hot[self.direction.index()].state
    }

    #[inline(always)]
    fn other_state(&self) -> u32 {
        self.entry.hot[self.direction.reverse().index()]
            .state
            .load(Relaxed)
    }

    /// Notes when the flow was last seen, and counts the packet.
    #[inline(always)]
    fn count<E: Env>(&self, env: &E) {
        self.see(env);
        self.count_traffic(env);
    }

    /// Notes when the flow was last seen.
    #[inline(always)]
    fn see<E: Env>(&self, env: &E) {
        let now = env.jiffies();
        if self.entry.last_seen.load(Relaxed) != now {
            self.entry.last_seen.store(now, Relaxed);
        }
    }

    /// Adds the packet to its direction's traffic.
    #[inline(always)]
    fn count_traffic<E: Env>(&self, env: &E) {
        let traffic = Traffic {
            packets: u64::from(self.wire.segments),
            bytes: self.wire.bytes,
        };
        let own = &self.entry.hot[self.direction.index()];
        env.add64(&own.traffic, traffic.pack());
    }
}

/// The fast path for packets with timestamps: counts the packet, stamps it and
/// matches it. False: nothing was done, because the packet needs the steps from
/// [`prepare`] on.
///
/// The order is that of the memory: first everything is looked at, so that
/// the misses of a cold flow's lines overlap; the clock and the atomic adds,
/// which wait for all loads before them, come last.
#[inline(always)]
pub fn fast_ts<E: Env>(at: &FlowPacket<'_>, head: &TcpHead, env: &E) -> bool {
    let own = &at.entry.hot[at.direction.index()];
    let state = own.state.load(Relaxed);
    if !env.methods().allow_fast_path() || !head.has_timestamp {
        return false;
    }
    // Nearly every packet of a busy flow has nothing new in it.
    let quiet = state & state::RESTLESS == state::CALM
        && head.tsval == own.tsval.load(Relaxed)
        && head.tsecr == own.tsecr.load(Relaxed)
        && (head.payload == 0 || head.seq == own.seq_end.load(Relaxed))
        && !head.has_any(flag::SYN | flag::FIN | flag::RST);
    if quiet {
        let now = env.jiffies();
        if at.entry.last_seen.load(Relaxed) != now {
            // Counted, it would make the flow look as if it had not been silent, and the next
            // packet would be timed by stamps whose times have wrapped.
            if is_silent(at, env) {
                return false;
            }
            at.entry.last_seen.store(now, Relaxed);
        }
        if head.payload != 0 {
            let end = head.seq.wrapping_add(head.payload);
            own.seq_end.store(end, Relaxed);
        }
    } else {
        // The words are loaded again on purpose. Kept since the test above,
        // they would take registers from the packets that have nothing new,
        // and some of those would then use the stack.
        cold_path();
        compiler_fence(Acquire);
        let state = own.state.load(Relaxed);
        let last = ts::Last::with(at, own.tsval.load(Relaxed));
        if ts::is_odd(at, head, last, state) || is_silent(at, env) {
            return false;
        }
        let mut state = state;
        if head.has(flag::FIN) {
            state = close(at, head, env, state);
        }
        (_, state) = sequence::note(at, head, env, state);
        ts::packet(
            at,
            head,
            (Some(last), 0),
            env,
            env.hide_from_verifier(state),
        );
        at.see(env);
    }
    at.count_traffic(env);
    true
}

/// What remains to be done with a packet after [`prepare`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Next {
    /// Nothing remains to be done.
    Done = 0,
    /// The step [`by_ts`].
    Ts = 1,
    /// The step [`by_seq`].
    Seq = 2,
}

/// Bit beside [`Next`]: the packet may belong to a handshake, so
/// [`handshake()`] comes first.
pub const HANDSHAKE: u32 = 1 << 16;

/// Bit beside [`Next`]: the packet may answer what has not passed yet.
const EARLY: u32 = 1 << 17;

/// Bit beside [`Next`]: the packet is not believed.
const IGNORED: u32 = 1 << 18;

/// Lowest bit of the part beside [`Next`] that says how the packet follows the
/// ones before it.
const COURSE: u32 = 8;

/// The part of [`prepare`]'s result that is a [`sequence::SeqOrder`].
#[inline(always)]
const fn course(next: u32) -> u32 {
    next >> COURSE & 0xff
}

/// First step with a packet that [`fast_ts`] does not take: counts it, follows
/// its sequence numbers and looks for a handshake. Returns [`Next`] with the
/// bits beside it, as a number: the value passes through memory between the
/// steps.
#[inline(always)]
pub fn prepare<E: Env>(at: &FlowPacket<'_>, head: &TcpHead, env: &E) -> u32 {
    if is_silent(at, env) {
        expire_all(at.entry, env);
        ts::forget(at.entry, env);
    }
    let mut state = at.state().load(Relaxed);
    if !window::admits(at, head, env, state) {
        if !window::starts_anew(at, head, env) {
            return Next::Done as u32 | IGNORED;
        }
        state = start_anew(at, head, env);
    }
    state = env.hide_from_verifier(state);
    at.count(env);
    if !head.has_timestamp {
        env.count(Counter::NoTimestamp, u64::from(at.wire.segments));
    }
    if head.has_any(flag::FIN | flag::RST) {
        state = close(at, head, env, state);
    }
    if head.has(flag::RST) {
        at.state().store(state, Relaxed);
        return Next::Done as u32 | HANDSHAKE;
    }
    let course;
    (course, state) = sequence::note(at, head, env, state);
    if course != sequence::SeqOrder::Again {
        // Who goes on has not reset the connection.
        state &= !state::RST;
    }
    let timed = head.has_timestamp && env.methods().has(Method::Ts);
    state = choice::choose(
        at,
        head,
        (course, timed),
        env,
        env.hide_from_verifier(state),
    );
    state = env.hide_from_verifier(state);
    at.state().store(state, Relaxed);
    let next = if state & state::SEQ != 0 {
        Next::Seq
    } else if timed {
        Next::Ts
    } else {
        Next::Done
    };
    let handshake = handshake::concerns(head, state, at.other_state());
    let other = &at.entry.hot[at.direction.reverse().index()];
    let beyond = serial_gt(head.ack, other.seq_end.load(Relaxed));
    // If the packet's acknowledgment came first, what comes now answers
    // something else. So the packet is not stamped, like one that may be a
    // copy.
    let stamped = if course == sequence::SeqOrder::Next && sequence::was_answered(at) {
        sequence::SeqOrder::First
    } else {
        course
    };
    let done = next as u32 | (stamped as u32) << COURSE;
    // By sequence numbers only an acknowledgment of more than has passed can be
    // early. By timestamps an echo can be, whatever the numbers say.
    if next == Next::Seq && !handshake && !beyond {
        return done;
    }
    let early = sequence::may_be_early(at, head, course);
    done | if handshake || early && beyond {
        HANDSHAKE
    } else {
        0
    } | if early { EARLY } else { 0 }
}

/// Step between, if [`HANDSHAKE`] is in `next`: runs the method `handshake`.
#[inline(always)]
pub fn handshake<E: Env>(at: &FlowPacket<'_>, head: &TcpHead, next: u32, env: &E) {
    if head.has(flag::SYN) {
        let mss = &at.entry.cold.announced_mss[at.direction.index()];
        mss.store(head.mss, Relaxed);
    }
    if next & EARLY != 0 && next & 0xff == Next::Seq as u32 {
        seq::ahead(at, head, env);
    }
    // Without the method the state is kept all the same: it tells flows whose
    // handshake has not ended.
    if env.methods().has(Method::Handshake) {
        handshake::answer(at, head, next & EARLY != 0, env);
    }
    if !head.has(flag::RST) {
        let again = course(next) == sequence::SeqOrder::Again as u32;
        let state = at.state();
        state.store(
            handshake::stamp(at, head, again, env, state.load(Relaxed)),
            Relaxed,
        );
    }
}

/// Step between, if the method is on: runs the method `request`. `next` is the
/// result of [`prepare`].
#[inline(always)]
pub fn request<E: Env>(
    at: &FlowPacket<'_>,
    request: &RequestEntry,
    head: &TcpHead,
    next: u32,
    env: &E,
) {
    if next & IGNORED == 0 {
        request::packet(at, request, head, course(next), env);
    }
}

/// Last step: runs the method `ts`. `next` is the result of [`prepare`].
#[inline(always)]
pub fn by_ts<E: Env>(at: &FlowPacket<'_>, head: &TcpHead, next: u32, env: &E) {
    ts::packet(at, head, (None, next), env, at.state().load(Relaxed));
}

/// Last step: runs the method `seq`. `next` is the result of [`prepare`].
#[inline(always)]
pub fn by_seq<E: Env>(at: &FlowPacket<'_>, head: &TcpHead, next: u32, env: &E) {
    seq::packet(at, head, next, env, at.state().load(Relaxed));
}

/// Notes the end of the connection: FIN from both ends, or a RST. Returns the
/// direction's new state.
#[inline(always)]
fn close<E: Env>(at: &FlowPacket<'_>, head: &TcpHead, env: &E, state: u32) -> u32 {
    let other = at.other_state();
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

/// Forgets all that was learnt of a flow, because its numbers are others now.
/// The packet at hand tells them. Returns the direction's new state.
#[inline(always)]
fn start_anew<E: Env>(at: &FlowPacket<'_>, head: &TcpHead, env: &E) -> u32 {
    env.count(Counter::FlowResynced, 1);
    let entry = at.entry;
    // A request that waits is of the life before.
    entry.cold.first_seen.store(env.jiffies(), Relaxed);
    for (slots, stale) in entry.slots.iter().zip(&entry.cold.stale) {
        slots::void(slots, env);
        slots.gap.store(0, Relaxed);
        stale.store(0, Relaxed);
    }
    let other = &entry.hot[at.direction.reverse().index()];
    other.seq_end.store(head.ack, Relaxed);
    // The answer to a SYN comes after that SYN.
    let opened = if head.has(flag::SYN) {
        state::HANDSHAKE
    } else {
        0
    };
    other.state.store(state::HAS_SEQ | opened, Relaxed);
    0
}

/// Whether the flow was silent for so long that its stamps are void.
#[inline(always)]
fn is_silent<E: Env>(at: &FlowPacket<'_>, env: &E) -> bool {
    let last = at.entry.last_seen.load(Relaxed);
    env.since(last) > env.hz().wrapping_mul(VOID_SECONDS + 1)
}

/// Voids all outstanding stamps.
fn expire_all<E: Env>(entry: &FlowEntry, env: &E) {
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
