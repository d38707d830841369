//! One packet at a hook where tunnels are looked into; see
//! `lpm_common::pipeline::inside`. These programs take the place of those of
//! [`crate::hook`] where the configuration wants it, and are loaded only then.

use aya_ebpf::{bindings::TC_ACT_UNSPEC, programs::TcContext};
use lpm_common::{
    parse::tunnel::LEVELS,
    pipeline::{
        self,
        inside::{self, Step, Unwrapped},
    },
};

use crate::{
    context::Context,
    env::Kernel,
    hook::{KNOWN, MEASURED, UNCOMMON, Way, datagram, enter, message},
    packet::{Linear, Whole, meta},
    questions::{DATAGRAM, questions},
    settings::{Ports, Secrets, abandoned},
    steps::{self, hand_over, scratch},
    store::Store,
};

/// Measures the packet, or what is inside. Always lets it pass.
#[inline(always)]
#[must_use]
pub fn measure<W: Way>(ctx: &TcContext) -> i32 {
    if !abandoned() {
        run::<W>(ctx.skb.skb);
    }
    TC_ACT_UNSPEC
}

/// Measures the packet, or what is inside.
#[inline(always)]
pub(crate) fn run<W: Way>(skb: impl Context) {
    let mut quick = quick::<W>(skb);
    if quick == UNCOMMON {
        quick = thorough::<W>(skb);
    }
    if quick == KNOWN {
        steps::finish(skb, W::WAY.1);
    }
}

/// A `pipeline::Quick`.
#[inline(never)]
fn quick<W: Way>(skb: impl Context) -> u32 {
    let bytes = Linear::new(skb);
    let (env, meta) = (Kernel::new(skb), meta(skb));
    let maps = (&Store, &Ports);
    inside::quick(&bytes, &meta, W::WAY, &Secrets, maps, &env, hand_over) as u32
}

/// As `hook::thorough`, step by step through `SCRATCH`.
#[inline(never)]
fn thorough<W: Way>(skb: impl Context) -> u32 {
    whole::<W>(skb);
    for _ in 0..=LEVELS {
        match unwrap(skb) {
            ENTERED => {}
            PLAIN => break,
            _ => return MEASURED,
        }
    }
    let found = network(skb);
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
    if level() == 0 && message::<W>(skb) != 0 {
        questions(skb, W::WAY.1);
    }
    enter::<_, W>(skb);
    known(skb)
}

/// Tunnels that were taken off.
#[inline(always)]
fn level() -> u32 {
    scratch().map_or(0, |scratch| scratch.left.level)
}

const PLAIN: u32 = 0;
const ENTERED: u32 = 1;
const SKIPPED: u32 = 2;

#[inline(never)]
fn whole<W: Way>(skb: impl Context) {
    if let Some(scratch) = scratch() {
        scratch.left = Unwrapped::whole(&meta(skb), W::WAY.0);
    }
}

/// Takes one tunnel off.
#[inline(never)]
fn unwrap(skb: impl Context) -> u32 {
    let Some(scratch) = scratch() else {
        return SKIPPED;
    };
    let meta = meta(skb);
    let bytes = Whole::new(skb, meta.len);
    match inside::unwrap(bytes, &scratch.left, &meta, &Ports, &Kernel::new(skb)) {
        Step::Plain => PLAIN,
        Step::Entered(left) => {
            scratch.left = left;
            ENTERED
        }
        Step::Skipped => SKIPPED,
    }
}

/// 0: there is nothing to measure.
#[inline(never)]
fn network(skb: impl Context) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let meta = meta(skb);
    let bytes = Whole::new(skb, meta.len);
    let env = Kernel::new(skb);
    let Some(network) = inside::network(bytes, &scratch.left, &meta, &env) else {
        return 0;
    };
    scratch.network = network;
    if pipeline::is_datagram(&network) {
        DATAGRAM
    } else {
        1
    }
}

/// 0: there is nothing to measure.
#[inline(never)]
fn transport(skb: impl Context) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let meta = meta(skb);
    let bytes = Whole::new(skb, meta.len);
    let env = Kernel::new(skb);
    let Some(packet) = inside::transport(bytes, &scratch.left, &meta, &scratch.network, &env)
    else {
        return 0;
    };
    scratch.packet = packet;
    1
}

#[inline(never)]
fn known(skb: impl Context) -> u32 {
    let Some(scratch) = scratch() else {
        return MEASURED;
    };
    let meta = inside::meta_of(&scratch.left, &meta(skb));
    scratch.known = pipeline::known_as(scratch.fingerprint, &scratch.packet, &meta);
    KNOWN
}
