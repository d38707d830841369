//! The steps of a packet, which all hooks share: one fast path, one slow path. What
//! differs between hooks is in [`Hook`], and resolved at compile time.
//!
//! Steps are functions that run one after the other. So packets that need no
//! step do not pay for its stack and registers, and steps do not pay for each
//! other's. One step passes its result to the next through a map, where the
//! verifier forgets which of the many paths led there. On the stack each path
//! would be followed to the end.
//!
//! The steps up to the flow entry are static functions, one per hook in the
//! object; a program contains those of its own hook. The last steps are global
//! functions ([`crate::global`]), which all hooks of a context share.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use lpm_common::{
    env::Env as _,
    layout::Method,
    matcher::HANDSHAKE,
    packet::{Direction, flag},
    parse::{Network, Packet},
    pipeline::{self, FastPath, Lookup, ParsedFlowPacket, SEQ, TS, tunnel::Unwrapped},
    query::{self, Query, Rest, Role},
};

use crate::{
    context::Context, env::KernelEnv, hook::Hook, maps::SCRATCH, packet::LoadBytes, store::Store,
};

/// The packet that this CPU works on, between the steps.
#[derive(Clone, Copy)]
pub struct Scratch {
    pub(crate) network: Network,
    pub(crate) packet: Packet,
    pub(crate) left: Unwrapped,
    pub(crate) known: ParsedFlowPacket,
    /// When a SYN came, nanoseconds; else 0. The SYN may have to wait for an
    /// entry for its flow, and that wait is no part of the round trip.
    pub(crate) arrived_ns: u64,
    pub(crate) query: Query,
    /// The messages of the packet that are still to be read.
    pub(crate) rest: Rest,
    /// VLAN ids of the packet at hand, while those of its query are in use.
    pub(crate) own_segment: u32,
    /// Fingerprint of the query, or of the flow that is being looked for.
    pub(crate) fingerprint: u64,
    pub(crate) sample: query::Sample,
    /// At XDP: the offset in the packet that is read.
    pub(crate) offset: usize,
}

#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: this CPU's own value; TC programs do not interrupt each other on
    // one CPU, and no step keeps its reference over a call of another.
    SCRATCH
        .get_ptr_mut(0)
        .map(|scratch| unsafe { &mut *scratch })
}

/// Stores a packet for [`finish`]. It is inlined: as a function it would need
/// the packet put together on the stack.
#[inline(always)]
pub(crate) fn stash(known: &ParsedFlowPacket) {
    if let Some(scratch) = scratch() {
        scratch.known = *known;
        scratch.arrived_ns = 0;
    }
}

/// Measures a packet by the fast path, and by the slow path if needed.
#[inline(always)]
pub(crate) fn run<H: Hook>(ctx: H::Context) {
    let mut done = if H::INLINE {
        H::fast_path(ctx) as u32
    } else {
        fast_path::<H>(ctx)
    };
    if done == UNCOMMON {
        done = slow_path::<H>(ctx);
    }
    if done == KNOWN {
        finish(ctx, H::WAY.1);
    }
}

const UNCOMMON: u32 = FastPath::Uncommon as u32;
const MEASURED: u32 = FastPath::Measured as u32;
const KNOWN: u32 = FastPath::Known as u32;

/// Runs the fast path as a function of its own; see [`Hook::INLINE`]. Returns a
/// [`FastPath`].
#[inline(never)]
fn fast_path<H: Hook>(ctx: H::Context) -> u32 {
    H::fast_path(ctx) as u32
}

/// Runs the slow path up to the packet's flow entry. Returns a [`FastPath`].
#[inline(always)]
fn slow_path<H: Hook>(ctx: H::Context) -> u32 {
    if !H::unwrap(ctx) {
        return MEASURED;
    }
    let found = network::<H>(ctx);
    if found == 0 {
        return MEASURED;
    }
    if found == DATAGRAM {
        datagram::<H>(ctx);
        H::queries(ctx);
        return MEASURED;
    }
    if transport::<H>(ctx) == 0 {
        return MEASURED;
    }
    if H::has_messages() && message::<H>(ctx) != 0 {
        H::queries(ctx);
    }
    let mut found = find::<H>(ctx);
    if H::VLANS && found == NOT_FOUND {
        found = H::Context::PLACE[H::WAY.1.index()](ctx);
    }
    if found != 0 {
        insert_flow::<H>(ctx);
    }
    known::<H>(ctx)
}

/// Result of [`network`] for a protocol other than TCP.
const DATAGRAM: u32 = 2;
const NOT_FOUND: u32 = Lookup::None as u32;

/// Reads the network header. Returns 0 if nothing in the packet can be measured.
#[inline(never)]
fn network<H: Hook>(ctx: H::Context) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let Some(network) = H::network(ctx, &scratch.left) else {
        return 0;
    };
    scratch.network = network;
    if pipeline::is_datagram(&network) {
        DATAGRAM
    } else {
        1
    }
}

#[inline(never)]
fn datagram<H: Hook>(ctx: H::Context) {
    let Some(scratch) = scratch() else { return };
    let env = H::env(ctx);
    let cx = H::around(ctx, &env);
    let bytes = LoadBytes::new(ctx, cx.meta.len);
    (scratch.query, scratch.rest) = pipeline::datagram(&bytes, &scratch.network, &cx);
}

/// Runs `pipeline::message`. Returns 0 if the segment carries no query and no
/// answer.
#[inline(never)]
fn message<H: Hook>(ctx: H::Context) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let env = H::env(ctx);
    let cx = H::around(ctx, &env);
    let bytes = LoadBytes::new(ctx, cx.meta.len);
    (scratch.query, scratch.rest) = pipeline::message(&bytes, &scratch.packet, &cx);
    u32::from(scratch.query.head.role != Role::Neither)
}

/// Reads the TCP header. Returns 0 if nothing in the packet can be measured.
#[inline(never)]
fn transport<H: Hook>(ctx: H::Context) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let Some(packet) = H::transport(ctx, &scratch.network, &scratch.left) else {
        return 0;
    };
    scratch.packet = packet;
    1
}

/// Looks for the flow entry. Returns a [`Lookup`]. Notes when the packet came, if
/// it is a SYN.
#[inline(never)]
fn find<H: Hook>(ctx: H::Context) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    scratch.arrived_ns = if scratch.packet.head.has(flag::SYN) {
        KernelEnv::new(ctx).now_ns()
    } else {
        0
    };
    let (fingerprint, found) = H::find(ctx, &scratch.packet);
    scratch.fingerprint = fingerprint;
    found as u32
}

#[inline(never)]
fn insert_flow<H: Hook>(ctx: H::Context) {
    if let Some(scratch) = scratch() {
        H::insert_flow(ctx, scratch);
    }
}

#[inline(never)]
fn known<H: Hook>(ctx: H::Context) -> u32 {
    let Some(scratch) = scratch() else {
        return MEASURED;
    };
    let meta = H::meta_of(&scratch.left, &H::meta(ctx));
    scratch.known = pipeline::known_as(scratch.fingerprint, &scratch.packet, &meta);
    KNOWN
}

/// Runs the last steps with the packet that was stored by [`stash`].
#[inline(always)]
fn finish<C: Context>(ctx: C, direction: Direction) {
    let [prepare, handshake, request, by_ts, by_seq] = C::STEPS[direction.index()];
    let next = prepare(ctx);
    if next & HANDSHAKE != 0 {
        handshake(ctx);
    }
    // The verifier knows the setting as a constant: if the method is off, this
    // is not even loaded.
    if KernelEnv::new(ctx).methods().has(Method::Request) {
        request(ctx);
    }
    match next & 0xff {
        TS => by_ts(ctx),
        SEQ => by_seq(ctx),
        _ => 0,
    };
}

/// A step, for one kind of context and one direction.
pub type Step<C> = extern "C" fn(C) -> u32;

macro_rules! slow_path {
    ($($context:ty, $direction:ident: $prepare:ident $handshake:ident $request:ident $by_ts:ident $by_seq:ident;)*) => { $(
        global! {
            /// Runs `pipeline::prepare`. Returns which step is the last one.
            fn $prepare(ctx: $context) {
                let Some(scratch) = scratch() else { return 0 };
                let env = KernelEnv::new(ctx);
                let next = pipeline::prepare(&scratch.known, Direction::$direction, &Store, &env);
                scratch.known.next = next;
                next
            }
        }
        global! {
            fn $handshake(ctx: $context) {
                let Some(scratch) = scratch() else { return 0 };
                let env = KernelEnv::arrived(ctx, scratch.arrived_ns);
                pipeline::handshake(&scratch.known, Direction::$direction, &Store, &env);
                0
            }
        }
        global! {
            fn $request(ctx: $context) {
                let env = KernelEnv::new(ctx);
                if !env.methods().has(Method::Request) {
                    return 0;
                }
                let Some(scratch) = scratch() else { return 0 };
                pipeline::request(&scratch.known, Direction::$direction, &Store, &env);
                0
            }
        }
        global! {
            fn $by_ts(ctx: $context) {
                let Some(scratch) = scratch() else { return 0 };
                let env = KernelEnv::new(ctx);
                pipeline::by_ts(&scratch.known, Direction::$direction, &Store, &env);
                0
            }
        }
        global! {
            fn $by_seq(ctx: $context) {
                let Some(scratch) = scratch() else { return 0 };
                let env = KernelEnv::new(ctx);
                pipeline::by_seq(&scratch.known, Direction::$direction, &Store, &env);
                0
            }
        }
    )* };
}

slow_path! {
    *mut __sk_buff, FromLocal: lpm_prepare_from lpm_shake_from lpm_request_from lpm_by_ts_from lpm_by_seq_from;
    *mut __sk_buff, ToLocal: lpm_prepare_to lpm_shake_to lpm_request_to lpm_by_ts_to lpm_by_seq_to;
    *mut xdp_md, ToLocal: lpm_prepare_xdp lpm_shake_xdp lpm_request_xdp lpm_by_ts_xdp lpm_by_seq_xdp;
}

/// The steps at TC, by direction.
pub(crate) const OF_SKB: [[Step<*mut __sk_buff>; 5]; 2] = [
    [
        lpm_prepare_from,
        lpm_shake_from,
        lpm_request_from,
        lpm_by_ts_from,
        lpm_by_seq_from,
    ],
    [
        lpm_prepare_to,
        lpm_shake_to,
        lpm_request_to,
        lpm_by_ts_to,
        lpm_by_seq_to,
    ],
];

const RECEIVED: [Step<*mut xdp_md>; 5] = [
    lpm_prepare_xdp,
    lpm_shake_xdp,
    lpm_request_xdp,
    lpm_by_ts_xdp,
    lpm_by_seq_xdp,
];

/// The steps at XDP, where packets come only to the local end.
pub(crate) const OF_XDP: [[Step<*mut xdp_md>; 5]; 2] = [RECEIVED; 2];
