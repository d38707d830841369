//! The path of one packet at a hook where packets inside tunnels are measured,
//! too; see `lpm_common::pipeline::tunnel`. If the configuration asks for it,
//! these programs are loaded instead of those of [`crate::hook`].

use aya_ebpf::{bindings::TC_ACT_UNSPEC, programs::TcContext};
use lpm_common::{
    parse::tunnel::LEVELS,
    pipeline::{
        self,
        tunnel::{self, Step, Unwrapped},
    },
};

use crate::{
    context::Context,
    env::KernelEnv,
    hook::{KNOWN, MEASURED, UNCOMMON, Way, datagram, enter, message},
    packet::{DirectAccess, LoadBytes, meta},
    queries::{DATAGRAM, queries},
    settings::{Ports, Secrets, abandoned},
    slow_path::{self, scratch, stash},
    store::Store,
};

/// Measures the packet, or the packet inside it. Always lets it pass.
#[inline(always)]
#[must_use]
pub fn measure<W: Way>(ctx: &TcContext) -> i32 {
    if !abandoned() {
        run::<W>(ctx.skb.skb);
    }
    TC_ACT_UNSPEC
}

/// Measures the packet, or the packet inside it.
#[inline(always)]
pub(crate) fn run<W: Way>(ctx: impl Context) {
    let mut fast_path = fast_path::<W>(ctx);
    if fast_path == UNCOMMON {
        fast_path = slow_path::<W>(ctx);
    }
    if fast_path == KNOWN {
        slow_path::finish(ctx, W::WAY.1);
    }
}

/// Runs the fast path. Returns a `pipeline::FastPath`.
#[inline(never)]
fn fast_path<W: Way>(ctx: impl Context) -> u32 {
    let bytes = DirectAccess::new(ctx);
    let (env, meta) = (KernelEnv::new(ctx), meta(ctx));
    let maps = (&Store, &Ports);
    tunnel::fast_path(&bytes, &meta, W::WAY, &Secrets, maps, &env, stash) as u32
}

/// Runs the slow path, like `hook::slow_path`, step by step through `SCRATCH`.
/// Returns a `pipeline::FastPath`.
#[inline(never)]
fn slow_path<W: Way>(ctx: impl Context) -> u32 {
    whole::<W>(ctx);
    for _ in 0..=LEVELS {
        match unwrap(ctx) {
            ENTERED => {}
            PLAIN => break,
            _ => return MEASURED,
        }
    }
    let found = network(ctx);
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
    if level() == 0 && message::<W>(ctx) != 0 {
        queries(ctx, W::WAY.1);
    }
    enter::<_, W>(ctx);
    known(ctx)
}

/// Number of tunnels that were taken off.
#[inline(always)]
fn level() -> u32 {
    scratch().map_or(0, |scratch| scratch.left.level)
}

const PLAIN: u32 = 0;
const ENTERED: u32 = 1;
const SKIPPED: u32 = 2;

#[inline(never)]
fn whole<W: Way>(ctx: impl Context) {
    if let Some(scratch) = scratch() {
        scratch.left = Unwrapped::whole(&meta(ctx), W::WAY.0);
    }
}

/// Takes one tunnel off the packet.
#[inline(never)]
fn unwrap(ctx: impl Context) -> u32 {
    let Some(scratch) = scratch() else {
        return SKIPPED;
    };
    let meta = meta(ctx);
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

/// Runs `tunnel::network`. Returns 0 if nothing in the packet can be measured.
#[inline(never)]
fn network(ctx: impl Context) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let meta = meta(ctx);
    let bytes = LoadBytes::new(ctx, meta.len);
    let env = KernelEnv::new(ctx);
    let Some(network) = tunnel::network(bytes, &scratch.left, &meta, &env) else {
        return 0;
    };
    scratch.network = network;
    if pipeline::is_datagram(&network) {
        DATAGRAM
    } else {
        1
    }
}

/// Runs `tunnel::transport`. Returns 0 if nothing in the packet can be
/// measured.
#[inline(never)]
fn transport(ctx: impl Context) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let meta = meta(ctx);
    let bytes = LoadBytes::new(ctx, meta.len);
    let env = KernelEnv::new(ctx);
    let Some(packet) = tunnel::transport(bytes, &scratch.left, &meta, &scratch.network, &env)
    else {
        return 0;
    };
    scratch.packet = packet;
    1
}

#[inline(never)]
fn known(ctx: impl Context) -> u32 {
    let Some(scratch) = scratch() else {
        return MEASURED;
    };
    let meta = tunnel::meta_of(&scratch.left, &meta(ctx));
    scratch.known = pipeline::known_as(scratch.fingerprint, &scratch.packet, &meta);
    KNOWN
}
