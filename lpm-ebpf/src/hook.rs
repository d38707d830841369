//! One packet at a TC hook.

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_UNSPEC},
    programs::TcContext,
};
use lpm_common::{
    packet::Direction,
    parse::{Link, Network, Packet},
    pipeline::{self, inside::Unwrapped},
};

use crate::{
    env::Kernel,
    maps::SCRATCH,
    packet::{Linear, Whole, ifindex, meta},
    settings::Secrets,
    store::Store,
};

/// One of the ways through an interface: what its frames begin with, and the
/// direction. A type, so that each program holds nothing but its own way.
pub trait Way {
    /// What the frames begin with, and which way they go.
    const WAY: (Link, Direction);
}

macro_rules! way {
    ($(#[$doc:meta])+ $name:ident, $link:ident, $direction:ident) => {
        $(#[$doc])+
        pub struct $name;
        impl Way for $name {
            const WAY: (Link, Direction) = (Link::$link, Direction::$direction);
        }
    };
}

way!(
    /// From the local end, with Ethernet header.
    FromLocal,
    Ethernet,
    FromLocal
);
way!(
    /// To the local end, with Ethernet header.
    ToLocal,
    Ethernet,
    ToLocal
);
way!(
    /// From the local end, without Ethernet header.
    FromLocalIp,
    Ip,
    FromLocal
);
way!(
    /// To the local end, without Ethernet header.
    ToLocalIp,
    Ip,
    ToLocal
);

/// Measures the packet. Always lets it pass: `TC_ACT_UNSPEC` hands it to the
/// next program or filter as if this one were not there.
#[inline(always)]
#[must_use]
pub fn measure<W: Way>(ctx: &TcContext) -> i32 {
    let skb = ctx.skb.skb;
    if quick::<W>(skb) == 0 {
        thorough::<W>(skb);
    }
    TC_ACT_UNSPEC
}

/// 0: it takes the thorough way. A function of its own, so that its stack is
/// not that of the thorough way as well: all calls together have 512 bytes.
#[inline(never)]
fn quick<W: Way>(skb: *mut __sk_buff) -> u32 {
    let bytes = Linear::new(&TcContext::new(skb));
    let env = Kernel::new(skb);
    u32::from(pipeline::quick(
        &bytes,
        &meta(skb),
        W::WAY,
        &Secrets,
        &Store,
        &env,
    ))
}

// The thorough way is functions, one after the other: so their stack and
// registers are not those of the packets that need none of them, nor each
// other's. What one finds for the next goes through a map, where the verifier
// forgets by which of the many ways it got there: on the stack each way would
// be followed to the end.

/// This CPU's packet on the thorough way.
#[derive(Clone, Copy)]
pub struct Scratch {
    pub(crate) network: Network,
    pub(crate) packet: Packet,
    pub(crate) left: Unwrapped,
}

#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: this CPU's own value; TC programs do not interrupt each other on
    // one CPU, and no function below keeps its reference over a call of
    // another.
    SCRATCH
        .get_ptr_mut(0)
        .map(|scratch| unsafe { &mut *scratch })
}

#[inline(never)]
fn thorough<W: Way>(skb: *mut __sk_buff) {
    if network::<W>(skb) == 0 || transport(skb) == 0 {
        return;
    }
    if appears::<W>(skb) != 0 {
        appear::<W>(skb);
    }
    known::<W>(skb);
}

/// 0: there is nothing to measure.
#[inline(never)]
fn network<W: Way>(skb: *mut __sk_buff) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let meta = meta(skb);
    let bytes = Whole::new(skb, meta.len);
    let Some(network) = pipeline::network(&bytes, &meta, W::WAY.0, &Kernel::new(skb)) else {
        return 0;
    };
    scratch.network = network;
    1
}

/// 0: there is nothing to measure.
#[inline(never)]
fn transport(skb: *mut __sk_buff) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let meta = meta(skb);
    let bytes = Whole::new(skb, meta.len);
    let Some(packet) = pipeline::transport(&bytes, &meta, &scratch.network, &Kernel::new(skb))
    else {
        return 0;
    };
    scratch.packet = packet;
    1
}

/// Not 0: the flow has no entry, or starts anew.
#[inline(never)]
pub(crate) fn appears<W: Way>(skb: *mut __sk_buff) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    u32::from(pipeline::appears(
        &scratch.packet,
        ifindex(skb),
        W::WAY.1,
        &Secrets,
        &Store,
    ))
}

#[inline(never)]
pub(crate) fn appear<W: Way>(skb: *mut __sk_buff) {
    let Some(scratch) = scratch() else { return };
    let env = Kernel::new(skb);
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(
        TcContext::new(skb),
        "flow appears on interface {}: ports {} to {}",
        ifindex(skb),
        scratch.packet.sport,
        scratch.packet.dport
    );
    pipeline::appear(
        &scratch.packet,
        ifindex(skb),
        W::WAY.1,
        &Secrets,
        &Store,
        &env,
    );
}

#[inline(never)]
fn known<W: Way>(skb: *mut __sk_buff) {
    let Some(scratch) = scratch() else { return };
    let env = Kernel::new(skb);
    pipeline::measure(
        &scratch.packet,
        &meta(skb),
        W::WAY.1,
        &Secrets,
        &Store,
        &env,
    );
}
