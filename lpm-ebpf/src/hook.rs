//! What the places that a program is attached to have in common, and where they
//! differ: [`Hook`].
//!
//! All programs take the same steps ([`crate::slow_path`]). A hook is a type, so
//! each program holds the code of its own hook only, and no instruction asks
//! which one it is. There are three kinds: [`Plain`], which looks at packets as
//! they are, [`crate::tunnel::Tunnel`] and [`crate::node::Node`].

use core::marker::PhantomData;

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_UNSPEC, xdp_action::XDP_PASS, xdp_md},
    programs::{TcContext, XdpContext},
};
use lpm_common::{
    packet::{Direction, Meta},
    parse::{Link, Network, Packet},
    pipeline::{self, FastPath, Lookup, PacketContext, tunnel::Unwrapped},
};

use crate::{
    context::Context,
    env::KernelEnv,
    packet::{DirectAccess, LoadBytes},
    queries,
    settings::abandoned,
    slow_path::{Scratch, run, stash},
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

/// The kind of place that a program is attached to. The defaults are those of
/// a hook that measures packets as they are; see [`Plain`].
pub trait Hook {
    /// The kernel's context of a packet.
    type Context: Context;

    /// The link layer of the frames, and their direction.
    const WAY: (Link, Direction);

    /// Whether the fast path is inlined into the program. As a function of its
    /// own it costs a call, which is as much as all the rest. Inlined, its stack
    /// lies below that of all others (all calls together have 512 bytes).
    const INLINE: bool = false;

    /// Whether a flow without entry is looked for in other VLANs.
    const VLANS: bool = true;

    /// Measures a packet of the common layout whose flow has an entry.
    #[inline(always)]
    #[must_use]
    fn fast_path(ctx: Self::Context) -> FastPath {
        let bytes = DirectAccess::new(ctx);
        let env = Self::env(ctx);
        pipeline::fast_path(&bytes, &Self::around(ctx, &env), stash)
    }

    /// The packet's metadata, as they stand in flow keys.
    #[inline(always)]
    fn meta(ctx: Self::Context) -> Meta {
        ctx.meta()
    }

    /// The metadata of what is `left` of the packet without its tunnels.
    #[inline(always)]
    #[must_use]
    fn meta_of(_left: &Unwrapped, meta: &Meta) -> Meta {
        *meta
    }

    /// The clocks, counters and samples around the packet.
    #[inline(always)]
    fn env(ctx: Self::Context) -> KernelEnv<Self::Context> {
        KernelEnv::new(ctx)
    }

    /// The packet's metadata, and where it passes.
    #[inline(always)]
    fn around(
        ctx: Self::Context,
        env: &KernelEnv<Self::Context>,
    ) -> PacketContext<'_, Store, KernelEnv<Self::Context>> {
        PacketContext {
            meta: Self::meta(ctx),
            link: Self::WAY.0,
            direction: Self::WAY.1,
            host: &Store,
            env,
        }
    }

    /// Takes the packet's tunnels off. False: there is nothing to measure in it.
    #[inline(always)]
    #[must_use]
    fn unwrap(_: Self::Context) -> bool {
        true
    }

    /// Reads the packet up to its TCP header, or that of a datagram.
    #[inline(always)]
    fn network(ctx: Self::Context, _left: &Unwrapped) -> Option<Network> {
        let (env, meta) = (Self::env(ctx), Self::meta(ctx));
        let bytes = LoadBytes::new(ctx, meta.len);
        pipeline::network(&bytes, &meta, Self::WAY.0, &env)
    }

    /// Reads the TCP header.
    #[inline(always)]
    fn transport(ctx: Self::Context, network: &Network, _left: &Unwrapped) -> Option<Packet> {
        let (env, meta) = (Self::env(ctx), Self::meta(ctx));
        let bytes = LoadBytes::new(ctx, meta.len);
        pipeline::transport(&bytes, &meta, network, &env)
    }

    /// Whether questions and answers over TCP are looked for in the packet.
    #[inline(always)]
    #[must_use]
    fn has_messages() -> bool {
        true
    }

    /// Measures the question or the answer that was read, and those that follow
    /// it in the packet.
    #[inline(always)]
    fn queries(ctx: Self::Context) {
        queries::queries(ctx, Self::WAY.1);
    }

    /// Looks for the entry of the packet's flow; returns its fingerprint too.
    #[inline(always)]
    #[must_use]
    fn find(ctx: Self::Context, packet: &Packet) -> (u64, Lookup) {
        pipeline::find(packet, &Self::around(ctx, &KernelEnv::new(ctx)))
    }

    /// Gives the packet's flow an entry, or a new start in the one that it has.
    #[inline(always)]
    fn insert_flow(ctx: Self::Context, scratch: &Scratch) {
        let env = KernelEnv::new(ctx);
        let (packet, cx) = (&scratch.packet, Self::around(ctx, &env));
        #[cfg(feature = "log")]
        aya_log_ebpf::debug!(
            TcContext::new(ctx.as_ptr().cast()),
            "flow appears on interface {}: ports {} to {}",
            cx.meta.ifindex,
            packet.sport,
            packet.dport
        );
        pipeline::insert_flow(packet, scratch.fingerprint, &cx);
    }
}

/// A hook that measures packets as they are.
pub struct Plain<C, W>(PhantomData<(C, W)>);

impl<C: Context, W: Way> Hook for Plain<C, W> {
    type Context = C;
    const WAY: (Link, Direction) = W::WAY;
    // Devices without Ethernet header are rare, and their fast path has more
    // stack.
    const INLINE: bool = matches!(W::WAY.0, Link::Ethernet);
}

/// Measures a packet at TC and always lets it pass: `TC_ACT_UNSPEC` continues
/// with the next program or filter as if this one were not there.
#[inline(always)]
#[must_use]
pub fn measure<H: Hook<Context = *mut __sk_buff>>(ctx: &TcContext) -> i32 {
    if !abandoned() {
        run::<H>(ctx.skb.skb);
    }
    TC_ACT_UNSPEC
}

/// Measures a packet at the XDP hook of a network card: what it received, before
/// the kernel has made an skb of it. Always lets it pass. The way out stays with
/// TC; both are one vantage.
#[inline(always)]
#[must_use]
pub fn measure_xdp<H: Hook<Context = *mut xdp_md>>(ctx: &XdpContext) -> u32 {
    if !abandoned() {
        run::<H>(ctx.ctx);
    }
    XDP_PASS
}
