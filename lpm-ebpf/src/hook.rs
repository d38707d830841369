//! One packet at a TC hook.

use aya_ebpf::{bindings::TC_ACT_UNSPEC, programs::TcContext};
use lpm_common::{
    packet::Direction,
    parse::Link,
    pipeline::{self, Found, Quick},
    query::Role,
};

use crate::{
    context::Context,
    env::Kernel,
    packet::{Linear, Whole, ifindex, meta},
    questions::{DATAGRAM, questions},
    settings::{Secrets, abandoned},
    steps::{self, arrives, hand_over, scratch},
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
    if !abandoned() {
        run::<W>(ctx.skb.skb);
    }
    TC_ACT_UNSPEC
}

/// Measures the packet.
#[inline(always)]
pub(crate) fn run<W: Way>(skb: impl Context) {
    let mut quick = match W::WAY.0 {
        Link::Ethernet => quick::<W>(skb),
        Link::Ip => quick_apart::<W>(skb),
    };
    if quick == UNCOMMON {
        quick = thorough::<W>(skb);
    }
    if quick == KNOWN {
        steps::finish(skb, W::WAY.1);
    }
}

pub(crate) const UNCOMMON: u32 = Quick::Uncommon as u32;
pub(crate) const MEASURED: u32 = Quick::Measured as u32;
pub(crate) const KNOWN: u32 = Quick::Known as u32;

/// A [`Quick`]. Not a function of its own, though its stack is below that of
/// all others so (all calls together have 512 bytes): the call would cost as
/// much as all the rest.
#[inline(always)]
fn quick<W: Way>(skb: impl Context) -> u32 {
    let bytes = Linear::new(skb);
    let env = Kernel::new(skb);
    let meta = meta(skb);
    pipeline::quick(&bytes, &meta, W::WAY, &Secrets, &Store, &env, hand_over) as u32
}

/// Where there is no room for that.
#[inline(never)]
fn quick_apart<W: Way>(skb: impl Context) -> u32 {
    quick::<W>(skb)
}

/// The thorough way, to the packet's entry. A [`Quick`].
#[inline(always)]
fn thorough<W: Way>(skb: impl Context) -> u32 {
    let found = network::<W>(skb);
    if found == 0 {
        return MEASURED;
    }
    if found == DATAGRAM {
        datagram::<W>(skb);
        questions(skb, W::WAY.1);
        return MEASURED;
    }
    if transport(skb) == 0 {
        return MEASURED;
    }
    if message::<W>(skb) != 0 {
        questions(skb, W::WAY.1);
    }
    enter::<_, W>(skb);
    known(skb)
}

/// Sees to it that the packet's flow has an entry, in its own VLAN or another.
#[inline(always)]
pub(crate) fn enter<C: Context, W: Way>(skb: C) {
    let mut found = find::<W>(skb);
    if found == NOT_FOUND {
        found = C::PLACE[W::WAY.1.index()](skb);
    }
    if found != 0 {
        appear::<W>(skb);
    }
}

/// 0: there is nothing to measure.
#[inline(never)]
fn network<W: Way>(skb: impl Context) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let meta = meta(skb);
    let bytes = Whole::new(skb, meta.len);
    let Some(network) = pipeline::network(&bytes, &meta, W::WAY.0, &Kernel::new(skb)) else {
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
pub(crate) fn datagram<W: Way>(skb: impl Context) {
    let Some(scratch) = scratch() else { return };
    let env = Kernel::new(skb);
    let meta = meta(skb);
    let bytes = Whole::new(skb, meta.len);
    (scratch.query, scratch.rest) =
        pipeline::datagram(&bytes, &meta, &scratch.network, W::WAY.1, &env);
}

/// 0: the segment carries no question and no answer.
#[inline(never)]
pub(crate) fn message<W: Way>(skb: impl Context) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let env = Kernel::new(skb);
    let meta = meta(skb);
    let bytes = Whole::new(skb, meta.len);
    let way = (meta.ifindex, W::WAY.1);
    (scratch.query, scratch.rest) =
        pipeline::message(&bytes, &scratch.packet, way, &Secrets, &Store, &env);
    u32::from(scratch.query.head.role != Role::Neither)
}

/// 0: there is nothing to measure.
#[inline(never)]
fn transport(skb: impl Context) -> u32 {
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

const NOT_FOUND: u32 = Found::None as u32;

/// A `Found`.
#[inline(never)]
fn find<W: Way>(skb: impl Context) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    arrives(scratch, skb);
    let way = (ifindex(skb), W::WAY.1);
    let (fingerprint, found) = pipeline::find(&scratch.packet, way, &Secrets, &Store);
    scratch.fingerprint = fingerprint;
    found as u32
}

#[inline(never)]
fn appear<W: Way>(skb: impl Context) {
    let Some(scratch) = scratch() else { return };
    let env = Kernel::new(skb);
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(
        TcContext::new(skb.as_ptr().cast()),
        "flow appears on interface {}: ports {} to {}",
        ifindex(skb),
        scratch.packet.sport,
        scratch.packet.dport
    );
    pipeline::appear(
        &scratch.packet,
        scratch.fingerprint,
        (ifindex(skb), W::WAY.1),
        &Store,
        &env,
    );
}

#[inline(never)]
fn known(skb: impl Context) -> u32 {
    let Some(scratch) = scratch() else {
        return MEASURED;
    };
    let meta = meta(skb);
    scratch.known = pipeline::known_as(scratch.fingerprint, &scratch.packet, &meta);
    KNOWN
}
