//! LPM's kernel object.
#![no_std]
#![no_main]

use core::sync::atomic::Ordering::Relaxed;

use aya_ebpf::{
    bindings::TC_ACT_UNSPEC,
    helpers::{bpf_jiffies64, bpf_ktime_get_ns},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use lpm_ebpf::{
    hook::{FromLocal, FromLocalIp, Plain, ToLocal, ToLocalIp, measure, measure_xdp},
    node::{self, Node},
    store::control,
    tunnel::Tunnel,
};

/// Measures packets sent by the local end.
#[classifier]
pub fn lpm_from_local(ctx: TcContext) -> i32 {
    measure::<Plain<_, FromLocal>>(&ctx)
}

/// Measures packets sent to the local end.
#[classifier]
pub fn lpm_to_local(ctx: TcContext) -> i32 {
    measure::<Plain<_, ToLocal>>(&ctx)
}

/// Measures packets sent by the local end, on a device without Ethernet header.
#[classifier]
pub fn lpm_from_local_l3(ctx: TcContext) -> i32 {
    measure::<Plain<_, FromLocalIp>>(&ctx)
}

/// Measures packets sent to the local end, on a device without Ethernet header.
#[classifier]
pub fn lpm_to_local_l3(ctx: TcContext) -> i32 {
    measure::<Plain<_, ToLocalIp>>(&ctx)
}

/// Measures packets sent by a pod past whose interface the CNI redirects
/// packets to it. At the ingress of that interface; see
/// `lpm_common::pipeline::node`.
#[classifier]
pub fn lpm_node_from(ctx: TcContext) -> i32 {
    measure::<Node<FromLocal>>(&ctx)
}

/// Measures packets that may go to such a pod. At the ingress of every
/// interface.
#[classifier]
pub fn lpm_node_to(ctx: TcContext) -> i32 {
    measure::<Node<ToLocal>>(&ctx)
}

/// Measures packets that may go to such a pod, from a device without Ethernet
/// header.
#[classifier]
pub fn lpm_node_to_l3(ctx: TcContext) -> i32 {
    measure::<Node<ToLocalIp>>(&ctx)
}

/// Measures packets that go to such a pod through its interface all the same:
/// the host's own, and those of a CNI that no longer redirects. At its egress.
#[classifier]
pub fn lpm_node_out(ctx: TcContext) -> i32 {
    node::out_of_veth(&ctx)
}

/// Measures packets sent by the local end, and packets inside tunnels.
#[classifier]
pub fn lpm_from_local_inner(ctx: TcContext) -> i32 {
    measure::<Tunnel<_, FromLocal>>(&ctx)
}

/// Measures packets sent to the local end, and packets inside tunnels.
#[classifier]
pub fn lpm_to_local_inner(ctx: TcContext) -> i32 {
    measure::<Tunnel<_, ToLocal>>(&ctx)
}

/// Measures packets that a network card received, before there is an skb.
#[xdp]
pub fn lpm_xdp(ctx: XdpContext) -> u32 {
    measure_xdp::<Plain<_, ToLocal>>(&ctx)
}

/// Measures packets that a network card received, before there is an skb, and
/// packets inside tunnels.
#[xdp]
pub fn lpm_xdp_inner(ctx: XdpContext) -> u32 {
    measure_xdp::<Tunnel<_, ToLocal>>(&ctx)
}

/// Reads jiffies and `CLOCK_MONOTONIC` at one moment. It is never attached: the
/// agent test-runs it to learn how the two clocks relate.
#[classifier]
pub fn lpm_clock(_ctx: TcContext) -> i32 {
    if let Some(control) = control() {
        // SAFETY: helpers without arguments.
        let (ktime, jiffies) = unsafe { (bpf_ktime_get_ns(), bpf_jiffies64()) };
        control.clock_ktime_ns.store(ktime, Relaxed);
        control.clock_jiffies.store(jiffies, Relaxed);
    }
    TC_ACT_UNSPEC
}

/// The kernel offers most helpers to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
