//! One packet at one of the hooks that are joined to the vantage `node`; see
//! `lpm_common::pipeline::joined`. These programs stand beside those of
//! [`crate::hook`] and are attached only while a CNI redirects.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_UNSPEC},
    programs::TcContext,
};
use lpm_common::{
    packet::Direction,
    parse,
    pipeline::{self, Interfaces, joined},
    query::Role,
};

use crate::{
    env::Kernel,
    hook::{FromLocal, KNOWN, MEASURED, ToLocal, UNCOMMON, Way},
    maps::FORWARDED,
    packet::{Linear, Whole, ifindex, meta},
    questions::{DATAGRAM, questions_of},
    settings::{Secrets, abandoned},
    steps::{self, arrives, hand_over, scratch},
    store::Store,
};

/// From the pod, at the ingress of its interface.
#[inline(always)]
#[must_use]
pub fn from_pod(ctx: &TcContext) -> i32 {
    let skb = ctx.skb.skb;
    if abandoned() {
        return TC_ACT_UNSPEC;
    }
    let mut quick = quick_from(skb);
    if quick == UNCOMMON {
        quick = thorough::<FromLocal>(skb, 0);
    }
    if quick == KNOWN {
        steps::finish(skb, Direction::FromLocal);
    }
    TC_ACT_UNSPEC
}

/// Perhaps to a pod, at the ingress of any interface.
#[inline(always)]
#[must_use]
pub fn to_pod<W: Way>(ctx: &TcContext) -> i32 {
    if !abandoned() {
        measure_to::<W>(ctx.skb.skb);
    }
    TC_ACT_UNSPEC
}

/// To the pod, at the egress of its interface.
#[inline(always)]
#[must_use]
pub fn out_of_veth(ctx: &TcContext) -> i32 {
    let skb = ctx.skb.skb;
    if abandoned() {
        return TC_ACT_UNSPEC;
    }
    // SAFETY: the hook's context; TC programs may read this field.
    let from = unsafe { (*skb).ingress_ifindex };
    if from == 0 || Store.config(from).is_none() {
        measure_to::<ToLocal>(skb);
    } else {
        // The hook where it came in has measured it.
        forwarded(skb);
    }
    TC_ACT_UNSPEC
}

#[inline(always)]
fn measure_to<W: Way>(skb: *mut __sk_buff) {
    let mut quick = quick_to::<W>(skb);
    if quick == UNCOMMON {
        quick = thorough::<W>(skb, 1);
    }
    if quick == KNOWN {
        steps::finish(skb, Direction::ToLocal);
    }
}

// The quick ways are functions, so that their stack is not that of the
// thorough ways, which come on top.

/// A `pipeline::Quick`.
#[inline(never)]
fn quick_from(skb: *mut __sk_buff) -> u32 {
    let meta = joined::meta(&meta(skb));
    let bytes = Linear::new(skb);
    let env = Kernel::new(skb);
    let way = FromLocal::WAY;
    pipeline::quick(&bytes, &meta, way, &Secrets, &Store, &env, hand_over) as u32
}

/// A `pipeline::Quick`.
#[inline(never)]
fn quick_to<W: Way>(skb: *mut __sk_buff) -> u32 {
    let meta = joined::meta(&meta(skb));
    let bytes = Linear::new(skb);
    let env = Kernel::quiet(skb);
    let link = W::WAY.0;
    joined::quick_to_pod(&bytes, &meta, link, &Secrets, &Store, &env, hand_over) as u32
}

/// Tells the agent that the CNI did not redirect. A function of its own: its
/// stack would be below that of all others.
#[inline(never)]
fn forwarded(skb: *mut __sk_buff) {
    let meta = joined::meta(&meta(skb));
    let bytes = Linear::new(skb);
    if !joined::is_to_known(&bytes, &meta, ToLocal::WAY.0, &Secrets, &Store) {
        return;
    }
    if let Some(count) = FORWARDED.get_ptr_mut(ifindex(skb)) {
        // SAFETY: an element of the map, which is only added to atomically.
        unsafe {
            atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(count, u64::from(meta.segments))
        };
    }
}

/// As `hook::thorough`, step by step through `SCRATCH`.
#[inline(never)]
fn thorough<W: Way>(skb: *mut __sk_buff, quiet: u32) -> u32 {
    let found = network::<W>(skb, quiet);
    if found == 0 {
        return MEASURED;
    }
    if found == DATAGRAM {
        datagram::<W>(skb, quiet);
        pods_questions::<W>(skb);
        return MEASURED;
    }
    if transport(skb, quiet) == 0 {
        return MEASURED;
    }
    if message::<W>(skb, quiet) != 0 {
        pods_questions::<W>(skb);
    }
    if appears::<W>(skb) != 0 {
        appear::<W>(skb);
    }
    known::<W>(skb)
}

#[inline(never)]
fn datagram<W: Way>(skb: *mut __sk_buff, quiet: u32) {
    let Some(scratch) = scratch() else { return };
    let meta = joined::meta(&meta(skb));
    let bytes = Whole::new(skb, meta.len);
    let (network, env) = (&scratch.network, env(skb, quiet));
    (scratch.query, scratch.rest) = pipeline::datagram(&bytes, &meta, network, W::WAY.1, &env);
}

/// 0: the segment carries no question and no answer.
#[inline(never)]
fn message<W: Way>(skb: *mut __sk_buff, quiet: u32) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let meta = joined::meta(&meta(skb));
    let bytes = Whole::new(skb, meta.len);
    let way = (meta.ifindex, W::WAY.1);
    let env = env(skb, quiet);
    (scratch.query, scratch.rest) =
        pipeline::message(&bytes, &scratch.packet, way, &Secrets, &Store, &env);
    u32::from(scratch.query.head.role != Role::Neither)
}

/// Takes what was found, if it is a question or an answer of a pod's, and what
/// else is in the packet.
#[inline(always)]
fn pods_questions<W: Way>(skb: *mut __sk_buff) {
    match W::WAY.1 {
        Direction::FromLocal => lpm_pods_from(skb),
        Direction::ToLocal => lpm_pods_to(skb),
    };
}

global! {
    fn lpm_pods_from(skb: *mut __sk_buff) {
        questions_of(skb, Direction::FromLocal, 0, |skb| lpm_joined_from(skb) != 0);
        0
    }
}

global! {
    fn lpm_pods_to(skb: *mut __sk_buff) {
        questions_of(skb, Direction::ToLocal, 1, |_| lpm_joined_to() != 0);
        0
    }
}

#[inline(always)]
fn joined_question(ifindex: u32, direction: Direction) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let query = &mut scratch.query;
    u32::from(joined::question(
        query, ifindex, direction, &Secrets, &Store,
    ))
}

global! {
    fn lpm_joined_from(skb: *mut __sk_buff) {
        joined_question(ifindex(skb), Direction::FromLocal)
    }
}

global! {
    /// Whose it is says the address that it goes to, not the interface.
    fn lpm_joined_to() {
        joined_question(0, Direction::ToLocal)
    }
}

#[inline(always)]
fn env(skb: *mut __sk_buff, quiet: u32) -> Kernel<*mut __sk_buff> {
    Kernel::for_one_of(skb, quiet)
}

/// 0: there is nothing to measure.
#[inline(never)]
fn network<W: Way>(skb: *mut __sk_buff, quiet: u32) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let meta = joined::meta(&meta(skb));
    let bytes = Whole::new(skb, meta.len);
    let Some(network) = pipeline::network(&bytes, &meta, W::WAY.0, &env(skb, quiet)) else {
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
fn transport(skb: *mut __sk_buff, quiet: u32) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let meta = joined::meta(&meta(skb));
    let bytes = Whole::new(skb, meta.len);
    let Some(packet) = pipeline::transport(&bytes, &meta, &scratch.network, &env(skb, quiet))
    else {
        return 0;
    };
    scratch.packet = parse::Packet {
        segment: 0,
        ..packet
    };
    1
}

/// Not 0: the flow has no entry, or starts anew.
#[inline(never)]
fn appears<W: Way>(skb: *mut __sk_buff) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    arrives(scratch, skb);
    u32::from(joined::appears(&scratch.packet, W::WAY.1, &Secrets, &Store))
}

#[inline(never)]
fn appear<W: Way>(skb: *mut __sk_buff) {
    let Some(scratch) = scratch() else { return };
    let env = Kernel::new(skb);
    joined::appear(
        &scratch.packet,
        ifindex(skb),
        W::WAY.1,
        &Secrets,
        &Store,
        &env,
    );
}

#[inline(never)]
fn known<W: Way>(skb: *mut __sk_buff) -> u32 {
    let Some(scratch) = scratch() else {
        return MEASURED;
    };
    let meta = joined::meta(&meta(skb));
    scratch.known = pipeline::known(&scratch.packet, &meta, W::WAY.1, &Secrets);
    KNOWN
}
