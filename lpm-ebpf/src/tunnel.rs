//! Hooks where packets inside tunnels are measured, too; see
//! `lpm_common::pipeline::tunnel`. If the configuration asks for it, their
//! programs are loaded instead of those of [`crate::hook::Plain`].

use core::marker::PhantomData;

use lpm_common::{
    packet::{Direction, Meta},
    parse::{Link, Network, Packet, tunnel::LEVELS},
    pipeline::{
        FastPath,
        tunnel::{self, Step, Unwrapped},
    },
};

use crate::{
    context::Context,
    env::KernelEnv,
    hook::{Hook, Way},
    packet::{DirectAccess, LoadBytes},
    settings::Ports,
    slow_path::{scratch, stash},
};

/// A hook that measures the packet, or the packet inside its tunnels.
pub struct Tunnel<C, W>(PhantomData<(C, W)>);

impl<C: Context, W: Way> Hook for Tunnel<C, W> {
    type Context = C;
    const WAY: (Link, Direction) = W::WAY;

    #[inline(always)]
    fn fast_path(ctx: C) -> FastPath {
        let bytes = DirectAccess::new(ctx);
        let env = KernelEnv::new(ctx);
        tunnel::fast_path(&bytes, &Self::around(ctx, &env), &Ports, stash)
    }

    #[inline(always)]
    fn meta_of(left: &Unwrapped, meta: &Meta) -> Meta {
        tunnel::meta_of(left, meta)
    }

    #[inline(always)]
    fn unwrap(ctx: C) -> bool {
        whole::<C, W>(ctx);
        for _ in 0..=LEVELS {
            match unwrap(ctx) {
                ENTERED => {}
                PLAIN => return true,
                _ => return false,
            }
        }
        true
    }

    #[inline(always)]
    fn network(ctx: C, left: &Unwrapped) -> Option<Network> {
        let (env, meta) = (KernelEnv::new(ctx), ctx.meta());
        tunnel::network(LoadBytes::new(ctx, meta.len), left, &meta, &env)
    }

    #[inline(always)]
    fn transport(ctx: C, network: &Network, left: &Unwrapped) -> Option<Packet> {
        let (env, meta) = (KernelEnv::new(ctx), ctx.meta());
        tunnel::transport(LoadBytes::new(ctx, meta.len), left, &meta, network, &env)
    }

    /// Questions and answers are measured outside of tunnels only.
    #[inline(always)]
    fn has_messages() -> bool {
        scratch().is_none_or(|scratch| scratch.left.level == 0)
    }
}

const PLAIN: u32 = 0;
const ENTERED: u32 = 1;
const SKIPPED: u32 = 2;

/// Begins with the whole packet.
#[inline(never)]
fn whole<C: Context, W: Way>(ctx: C) {
    if let Some(scratch) = scratch() {
        scratch.left = Unwrapped::whole(&ctx.meta(), W::WAY.0);
    }
}

/// Takes one tunnel off the packet.
#[inline(never)]
fn unwrap(ctx: impl Context) -> u32 {
    let Some(scratch) = scratch() else {
        return SKIPPED;
    };
    let meta = ctx.meta();
    let bytes = LoadBytes::new(ctx, meta.len);
    match tunnel::unwrap(bytes, &scratch.left, &meta, &Ports, &KernelEnv::new(ctx)) {
        Step::Plain => PLAIN,
        Step::Entered(left) => {
            scratch.left = left;
            ENTERED
        }
        Step::Skipped => SKIPPED,
    }
}
