//! The path of one packet at the hooks of the node vantage; see
//! `lpm_common::pipeline::node`. These programs run beside those of
//! [`crate::hook`]. They are attached only while a CNI redirects.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_UNSPEC},
    programs::TcContext,
};
use lpm_common::{
    packet::Direction,
    parse,
    pipeline::{self, Interfaces, node},
    query::Role,
};

use crate::{
    env::KernelEnv,
    hook::{FromLocal, KNOWN, MEASURED, ToLocal, UNCOMMON, Way},
    maps::FORWARDED,
    packet::{DirectAccess, LoadBytes, ifindex, meta},
    queries::{DATAGRAM, questions_of},
    settings::{Secrets, abandoned},
    slow_path::{self, arrives, scratch, stash},
    store::Store,
};

/// Measures a packet from the pod, at the ingress of its interface.
#[inline(always)]
#[must_use]
pub fn from_pod(ctx: &TcContext) -> i32 {
    let ctx = ctx.skb.skb;
    if abandoned() {
        return TC_ACT_UNSPEC;
    }
    let mut fast_path = quick_from(ctx);
    if fast_path == UNCOMMON {
        fast_path = slow_path::<FromLocal>(ctx, 0);
    }
    if fast_path == KNOWN {
        slow_path::finish(ctx, Direction::FromLocal);
    }
    TC_ACT_UNSPEC
}

/// Measures a packet that may go to a pod, at the ingress of any interface.
#[inline(always)]
#[must_use]
pub fn to_pod<W: Way>(ctx: &TcContext) -> i32 {
    if !abandoned() {
        measure_to::<W>(ctx.skb.skb);
    }
    TC_ACT_UNSPEC
}

/// Measures a packet to the pod, at the egress of its interface.
#[inline(always)]
#[must_use]
pub fn out_of_veth(ctx: &TcContext) -> i32 {
    let ctx = ctx.skb.skb;
    if abandoned() {
        return TC_ACT_UNSPEC;
    }
    // SAFETY: the hook's context; TC programs may read this field.
    let from = unsafe { (*ctx).ingress_ifindex };
    if from == 0 || Store.config(from).is_none() {
        measure_to::<ToLocal>(ctx);
    } else {
        // The hook at which it entered the host has measured it.
        forwarded(ctx);
    }
    TC_ACT_UNSPEC
}

#[inline(always)]
fn measure_to<W: Way>(ctx: *mut __sk_buff) {
    let mut fast_path = quick_to::<W>(ctx);
    if fast_path == UNCOMMON {
        fast_path = slow_path::<W>(ctx, 1);
    }
    if fast_path == KNOWN {
        slow_path::finish(ctx, Direction::ToLocal);
    }
}

// The fast paths are functions of their own, so that their stack is not below
// that of the slow paths.

/// Runs the fast path of packets from a pod. Returns a `pipeline::FastPath`.
#[inline(never)]
fn quick_from(ctx: *mut __sk_buff) -> u32 {
    let meta = node::meta(&meta(ctx));
    let bytes = DirectAccess::new(ctx);
    let env = KernelEnv::new(ctx);
    let way = FromLocal::WAY;
    pipeline::fast_path(&bytes, &meta, way, &Secrets, &Store, &env, stash) as u32
}

/// Runs the fast path of packets to a pod. Returns a `pipeline::FastPath`.
#[inline(never)]
fn quick_to<W: Way>(ctx: *mut __sk_buff) -> u32 {
    let meta = node::meta(&meta(ctx));
    let bytes = DirectAccess::new(ctx);
    let env = KernelEnv::quiet(ctx);
    let link = W::WAY.0;
    node::quick_to_pod(&bytes, &meta, link, &Secrets, &Store, &env, stash) as u32
}

/// Tells the agent that the CNI did not redirect. It is a function of its own,
/// because otherwise its stack would be below that of all others.
#[inline(never)]
fn forwarded(ctx: *mut __sk_buff) {
    let meta = node::meta(&meta(ctx));
    let bytes = DirectAccess::new(ctx);
    if !node::is_to_known(&bytes, &meta, ToLocal::WAY.0, &Secrets, &Store) {
        return;
    }
    if let Some(count) = FORWARDED.get_ptr_mut(ifindex(ctx)) {
        // SAFETY: an element of the map, which is only added to atomically.
        unsafe {
            atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(count, u64::from(meta.segments))
        };
    }
}

/// Runs the slow path, like `hook::slow_path`, step by step through `SCRATCH`.
/// Returns a `pipeline::FastPath`.
#[inline(never)]
fn slow_path<W: Way>(ctx: *mut __sk_buff, quiet: u32) -> u32 {
    let found = network::<W>(ctx, quiet);
    if found == 0 {
        return MEASURED;
    }
    if found == DATAGRAM {
        datagram::<W>(ctx, quiet);
        pods_questions::<W>(ctx);
        return MEASURED;
    }
    if transport(ctx, quiet) == 0 {
        return MEASURED;
    }
    if message::<W>(ctx, quiet) != 0 {
        pods_questions::<W>(ctx);
    }
    if is_new_flow::<W>(ctx) != 0 {
        insert_flow::<W>(ctx);
    }
    known::<W>(ctx)
}

#[inline(never)]
fn datagram<W: Way>(ctx: *mut __sk_buff, quiet: u32) {
    let Some(scratch) = scratch() else { return };
    let meta = node::meta(&meta(ctx));
    let bytes = LoadBytes::new(ctx, meta.len);
    let (network, env) = (&scratch.network, env(ctx, quiet));
    (scratch.query, scratch.rest) = pipeline::datagram(&bytes, &meta, network, W::WAY.1, &env);
}

/// Runs `pipeline::message`. Returns 0 if the segment carries no query and no
/// answer.
#[inline(never)]
fn message<W: Way>(ctx: *mut __sk_buff, quiet: u32) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let meta = node::meta(&meta(ctx));
    let bytes = LoadBytes::new(ctx, meta.len);
    let way = (meta.ifindex, W::WAY.1);
    let env = env(ctx, quiet);
    (scratch.query, scratch.rest) =
        pipeline::message(&bytes, &scratch.packet, way, &Secrets, &Store, &env);
    u32::from(scratch.query.head.role != Role::Neither)
}

/// Takes the packet's queries and answers, as far as they are a pod's.
#[inline(always)]
fn pods_questions<W: Way>(ctx: *mut __sk_buff) {
    match W::WAY.1 {
        Direction::FromLocal => lpm_pods_from(ctx),
        Direction::ToLocal => lpm_pods_to(ctx),
    };
}

global! {
    fn lpm_pods_from(ctx: *mut __sk_buff) {
        questions_of(ctx, Direction::FromLocal, 0, |ctx| lpm_joined_from(ctx) != 0);
        0
    }
}

global! {
    fn lpm_pods_to(ctx: *mut __sk_buff) {
        questions_of(ctx, Direction::ToLocal, 1, |_| lpm_joined_to() != 0);
        0
    }
}

#[inline(always)]
fn joined_question(ifindex: u32, direction: Direction) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let query = &mut scratch.query;
    u32::from(node::take_query(
        query, ifindex, direction, &Secrets, &Store,
    ))
}

global! {
    fn lpm_joined_from(ctx: *mut __sk_buff) {
        joined_question(ifindex(ctx), Direction::FromLocal)
    }
}

global! {
    /// Moves the query or answer to the node vantage. The address that the
    /// packet goes to tells the pod; the interface does not.
    fn lpm_joined_to() {
        joined_question(0, Direction::ToLocal)
    }
}

#[inline(always)]
fn env(ctx: *mut __sk_buff, quiet: u32) -> KernelEnv<*mut __sk_buff> {
    KernelEnv::for_one_of(ctx, quiet)
}

/// Runs `pipeline::network`. Returns 0 if nothing in the packet can be
/// measured.
#[inline(never)]
fn network<W: Way>(ctx: *mut __sk_buff, quiet: u32) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let meta = node::meta(&meta(ctx));
    let bytes = LoadBytes::new(ctx, meta.len);
    let Some(network) = pipeline::network(&bytes, &meta, W::WAY.0, &env(ctx, quiet)) else {
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
fn transport(ctx: *mut __sk_buff, quiet: u32) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let meta = node::meta(&meta(ctx));
    let bytes = LoadBytes::new(ctx, meta.len);
    let Some(packet) = pipeline::transport(&bytes, &meta, &scratch.network, &env(ctx, quiet))
    else {
        return 0;
    };
    scratch.packet = parse::Packet {
        segment: 0,
        ..packet
    };
    1
}

/// Looks for the flow entry. Returns not 0 if the flow has none, or starts
/// anew.
#[inline(never)]
fn is_new_flow<W: Way>(ctx: *mut __sk_buff) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    arrives(scratch, ctx);
    u32::from(node::is_new_flow(
        &scratch.packet,
        W::WAY.1,
        &Secrets,
        &Store,
    ))
}

#[inline(never)]
fn insert_flow<W: Way>(ctx: *mut __sk_buff) {
    let Some(scratch) = scratch() else { return };
    let env = KernelEnv::new(ctx);
    node::insert_flow(
        &scratch.packet,
        ifindex(ctx),
        W::WAY.1,
        &Secrets,
        &Store,
        &env,
    );
}

#[inline(never)]
fn known<W: Way>(ctx: *mut __sk_buff) -> u32 {
    let Some(scratch) = scratch() else {
        return MEASURED;
    };
    let meta = node::meta(&meta(ctx));
    scratch.known = pipeline::known(&scratch.packet, &meta, W::WAY.1, &Secrets);
    KNOWN
}
