//! The hooks of the node vantage; see `lpm_common::pipeline::node`. Their programs
//! run beside those of [`crate::hook::Plain`]. They are attached only while a CNI
//! redirects.

use core::{
    intrinsics::{AtomicOrdering, atomic_xadd},
    marker::PhantomData,
};

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_UNSPEC},
    programs::TcContext,
};
use lpm_common::{
    packet::{Direction, Meta},
    parse::{Link, Network, Packet},
    pipeline::{self, FastPath, Interfaces, Lookup, node, tunnel::Unwrapped},
};

use crate::{
    context::Context,
    env::KernelEnv,
    hook::{Hook, ToLocal, Way},
    maps::FORWARDED,
    packet::{DirectAccess, LoadBytes},
    queries::queries_of,
    settings::abandoned,
    slow_path::{Scratch, run, scratch, stash},
    store::Store,
};

/// A hook of the node vantage. It measures packets from a pod, at the ingress of
/// the pod's interface, or packets that may go to a pod, at the ingress of any
/// interface.
pub struct Node<W>(PhantomData<W>);

impl<W: Way> Node<W> {
    /// Whether skipped packets are not counted: those that may go to a pod pass
    /// another program too, which counts them.
    const QUIET: bool = matches!(W::WAY.1, Direction::ToLocal);
}

impl<W: Way> Hook for Node<W> {
    type Context = *mut __sk_buff;
    const WAY: (Link, Direction) = W::WAY;
    const VLANS: bool = false;

    #[inline(always)]
    fn fast_path(ctx: *mut __sk_buff) -> FastPath {
        let bytes = DirectAccess::new(ctx);
        let env = Self::env(ctx);
        let cx = Self::around(ctx, &env);
        match W::WAY.1 {
            Direction::FromLocal => pipeline::fast_path(&bytes, &cx, stash),
            Direction::ToLocal => node::fast_path_to_pod(&bytes, &cx, stash),
        }
    }

    #[inline(always)]
    fn meta(ctx: *mut __sk_buff) -> Meta {
        node::meta(&ctx.meta())
    }

    #[inline(always)]
    fn env(ctx: *mut __sk_buff) -> KernelEnv<*mut __sk_buff> {
        KernelEnv::for_one_of(ctx, u32::from(Self::QUIET))
    }

    #[inline(always)]
    fn transport(ctx: *mut __sk_buff, network: &Network, _: &Unwrapped) -> Option<Packet> {
        let (env, meta) = (Self::env(ctx), Self::meta(ctx));
        let bytes = LoadBytes::new(ctx, meta.len);
        let mut packet = pipeline::transport(&bytes, &meta, network, &env)?;
        packet.segment = 0;
        Some(packet)
    }

    /// Takes the packet's queries and answers, as far as they are a pod's.
    #[inline(always)]
    fn queries(ctx: *mut __sk_buff) {
        match W::WAY.1 {
            Direction::FromLocal => lpm_pods_from(ctx),
            Direction::ToLocal => lpm_pods_to(ctx),
        };
    }

    #[inline(always)]
    fn find(ctx: *mut __sk_buff, packet: &Packet) -> (u64, Lookup) {
        node::find(packet, W::WAY.1, &Store, &KernelEnv::new(ctx))
    }

    #[inline(always)]
    fn insert_flow(ctx: *mut __sk_buff, scratch: &Scratch) {
        let env = KernelEnv::new(ctx);
        let (packet, cx) = (&scratch.packet, Self::around(ctx, &env));
        node::insert_flow(packet, scratch.fingerprint, ctx.ifindex(), &cx);
    }
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
        run::<Node<ToLocal>>(ctx);
    } else {
        // The hook at which it entered the host has measured it.
        forwarded(ctx);
    }
    TC_ACT_UNSPEC
}

/// Tells the agent that the CNI did not redirect. It is a function of its own,
/// because otherwise its stack would be below that of all others.
#[inline(never)]
fn forwarded(ctx: *mut __sk_buff) {
    let meta = node::meta(&ctx.meta());
    let bytes = DirectAccess::new(ctx);
    if !node::is_to_known(&bytes, &meta, ToLocal::WAY.0, &Store) {
        return;
    }
    if let Some(count) = FORWARDED.get_ptr_mut(ctx.ifindex()) {
        // SAFETY: an element of the map, which is only added to atomically.
        unsafe {
            atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(count, u64::from(meta.segments))
        };
    }
}

global! {
    fn lpm_pods_from(ctx: *mut __sk_buff) {
        queries_of(ctx, Direction::FromLocal, 0, |ctx| lpm_node_query_from(ctx) != 0);
        0
    }
}

global! {
    fn lpm_pods_to(ctx: *mut __sk_buff) {
        queries_of(ctx, Direction::ToLocal, 1, |_| lpm_node_query_to() != 0);
        0
    }
}

#[inline(always)]
fn node_query(ifindex: u32, direction: Direction) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let query = &mut scratch.query;
    u32::from(node::take_query(query, ifindex, direction, &Store))
}

global! {
    fn lpm_node_query_from(ctx: *mut __sk_buff) {
        node_query(ctx.ifindex(), Direction::FromLocal)
    }
}

global! {
    /// Moves the query or answer to the node vantage. The address that the
    /// packet goes to tells the pod; the interface does not.
    fn lpm_node_query_to() {
        node_query(0, Direction::ToLocal)
    }
}
