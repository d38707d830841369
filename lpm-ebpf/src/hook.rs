//! The path of one packet at a TC hook.

use aya_ebpf::{bindings::TC_ACT_UNSPEC, programs::TcContext};
use lpm_common::{
    packet::Direction,
    parse::Link,
    pipeline::{self, FastPath, Lookup},
    query::Role,
};

use crate::{
    context::Context,
    env::KernelEnv,
    packet::{DirectAccess, LoadBytes, ifindex, meta},
    queries::{DATAGRAM, queries},
    settings::{Secrets, abandoned},
    slow_path::{self, arrives, scratch, stash},
    store::Store,
};

/// A combination of link layer and direction. It is a type, so that each
/// program contains the code for its own combination alone.
pub trait Way {
    /// The link layer of the frames, and their direction.
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
    /// Packets from the local end, with Ethernet header.
    FromLocal,
    Ethernet,
    FromLocal
);
way!(
    /// Packets to the local end, with Ethernet header.
    ToLocal,
    Ethernet,
    ToLocal
);
way!(
    /// Packets from the local end, without Ethernet header.
    FromLocalIp,
    Ip,
    FromLocal
);
way!(
    /// Packets to the local end, without Ethernet header.
    ToLocalIp,
    Ip,
    ToLocal
);

/// Measures the packet and always lets it pass: `TC_ACT_UNSPEC` continues with
/// the next program or filter as if this one were not there.
#[inline(always)]
#[must_use]
pub fn measure<W: Way>(ctx: &TcContext) -> i32 {
    if !abandoned() {
        run::<W>(ctx.skb.skb);
    }
    TC_ACT_UNSPEC
}

/// Measures the packet by the fast path, and by the slow path if needed.
#[inline(always)]
pub(crate) fn run<W: Way>(ctx: impl Context) {
    let mut fast_path = match W::WAY.0 {
        Link::Ethernet => fast_path::<W>(ctx),
        Link::Ip => fast_path_apart::<W>(ctx),
    };
    if fast_path == UNCOMMON {
        fast_path = slow_path::<W>(ctx);
    }
    if fast_path == KNOWN {
        slow_path::finish(ctx, W::WAY.1);
    }
}

pub(crate) const UNCOMMON: u32 = FastPath::Uncommon as u32;
pub(crate) const MEASURED: u32 = FastPath::Measured as u32;
pub(crate) const KNOWN: u32 = FastPath::Known as u32;

/// Runs the fast path. Returns a [`FastPath`]. It is inlined although its stack
/// then lies below that of all others (all calls together have 512 bytes): a
/// call would cost as much as all the rest.
#[inline(always)]
fn fast_path<W: Way>(ctx: impl Context) -> u32 {
    let bytes = DirectAccess::new(ctx);
    let env = KernelEnv::new(ctx);
    let meta = meta(ctx);
    pipeline::fast_path(&bytes, &meta, W::WAY, &Secrets, &Store, &env, stash) as u32
}

/// Runs the fast path as a function of its own, where the stack has no room for
/// it.
#[inline(never)]
fn fast_path_apart<W: Way>(ctx: impl Context) -> u32 {
    fast_path::<W>(ctx)
}

/// Runs the slow path up to the packet's flow entry. Returns a [`FastPath`].
#[inline(always)]
fn slow_path<W: Way>(ctx: impl Context) -> u32 {
    let found = network::<W>(ctx);
    if found == 0 {
        return MEASURED;
    }
    if found == DATAGRAM {
        datagram::<W>(ctx);
        queries(ctx, W::WAY.1);
        return MEASURED;
    }
    if transport(ctx) == 0 {
        return MEASURED;
    }
    if message::<W>(ctx) != 0 {
        queries(ctx, W::WAY.1);
    }
    enter::<_, W>(ctx);
    known(ctx)
}

/// Makes sure that the packet's flow has an entry, in its own VLAN or another.
#[inline(always)]
pub(crate) fn enter<C: Context, W: Way>(ctx: C) {
    let mut found = find::<W>(ctx);
    if found == NOT_FOUND {
        found = C::PLACE[W::WAY.1.index()](ctx);
    }
    if found != 0 {
        insert_flow::<W>(ctx);
    }
}

/// Runs `pipeline::network`. Returns 0 if nothing in the packet can be
/// measured.
#[inline(never)]
fn network<W: Way>(ctx: impl Context) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let meta = meta(ctx);
    let bytes = LoadBytes::new(ctx, meta.len);
    let Some(network) = pipeline::network(&bytes, &meta, W::WAY.0, &KernelEnv::new(ctx)) else {
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
pub(crate) fn datagram<W: Way>(ctx: impl Context) {
    let Some(scratch) = scratch() else { return };
    let env = KernelEnv::new(ctx);
    let meta = meta(ctx);
    let bytes = LoadBytes::new(ctx, meta.len);
    (scratch.query, scratch.rest) =
        pipeline::datagram(&bytes, &meta, &scratch.network, W::WAY.1, &env);
}

/// Runs `pipeline::message`. Returns 0 if the segment carries no query and no
/// answer.
#[inline(never)]
pub(crate) fn message<W: Way>(ctx: impl Context) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let env = KernelEnv::new(ctx);
    let meta = meta(ctx);
    let bytes = LoadBytes::new(ctx, meta.len);
    let way = (meta.ifindex, W::WAY.1);
    (scratch.query, scratch.rest) =
        pipeline::message(&bytes, &scratch.packet, way, &Secrets, &Store, &env);
    u32::from(scratch.query.head.role != Role::Neither)
}

/// Runs `pipeline::transport`. Returns 0 if nothing in the packet can be
/// measured.
#[inline(never)]
fn transport(ctx: impl Context) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let meta = meta(ctx);
    let bytes = LoadBytes::new(ctx, meta.len);
    let Some(packet) = pipeline::transport(&bytes, &meta, &scratch.network, &KernelEnv::new(ctx))
    else {
        return 0;
    };
    scratch.packet = packet;
    1
}

const NOT_FOUND: u32 = Lookup::None as u32;

/// Runs `pipeline::find`. Returns a `Lookup`.
#[inline(never)]
fn find<W: Way>(ctx: impl Context) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    arrives(scratch, ctx);
    let way = (ifindex(ctx), W::WAY.1);
    let (fingerprint, found) = pipeline::find(&scratch.packet, way, &Secrets, &Store);
    scratch.fingerprint = fingerprint;
    found as u32
}

#[inline(never)]
fn insert_flow<W: Way>(ctx: impl Context) {
    let Some(scratch) = scratch() else { return };
    let env = KernelEnv::new(ctx);
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(
        TcContext::new(ctx.as_ptr().cast()),
        "flow appears on interface {}: ports {} to {}",
        ifindex(ctx),
        scratch.packet.sport,
        scratch.packet.dport
    );
    pipeline::insert_flow(
        &scratch.packet,
        scratch.fingerprint,
        (ifindex(ctx), W::WAY.1),
        &Store,
        &env,
    );
}

#[inline(never)]
fn known(ctx: impl Context) -> u32 {
    let Some(scratch) = scratch() else {
        return MEASURED;
    };
    let meta = meta(ctx);
    scratch.known = pipeline::known_as(scratch.fingerprint, &scratch.packet, &meta);
    KNOWN
}
