//! One packet at a TC hook.

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_UNSPEC},
    programs::TcContext,
};
use lpm_common::{packet::Direction, parse::Link, pipeline};

use crate::{
    env::Kernel,
    packet::{Linear, Whole, meta},
    settings::Secrets,
    store::Store,
};

/// Measures the packet. Always lets it pass: `TC_ACT_UNSPEC` hands it to the
/// next program or filter as if this one were not there.
#[inline(always)]
#[must_use]
pub fn measure(ctx: &TcContext, link: Link, direction: Direction) -> i32 {
    let skb = ctx.skb.skb;
    let meta = meta(skb);
    let env = Kernel::new(skb);
    if !pipeline::quick(
        &Linear::new(ctx),
        &meta,
        (link, direction),
        &Secrets,
        &Store,
        &env,
    ) {
        match (link, direction) {
            (Link::Ethernet, Direction::FromLocal) => ethernet_from_local(skb),
            (Link::Ethernet, Direction::ToLocal) => ethernet_to_local(skb),
            (Link::Ip, Direction::FromLocal) => ip_from_local(skb),
            (Link::Ip, Direction::ToLocal) => ip_to_local(skb),
        }
    }
    TC_ACT_UNSPEC
}

macro_rules! thorough {
    ($name:ident, $link:expr, $direction:expr) => {
        /// A function of its own, so that its stack and registers are not
        /// those of the packets that do not need it.
        #[inline(never)]
        fn $name(skb: *mut __sk_buff) {
            let meta = meta(skb);
            let bytes = Whole::new(skb, meta.len);
            // What is skipped was counted.
            let _ = pipeline::thorough(
                &bytes,
                &meta,
                ($link, $direction),
                &Secrets,
                &Store,
                &Kernel::new(skb),
            );
        }
    };
}

thorough!(ethernet_from_local, Link::Ethernet, Direction::FromLocal);
thorough!(ethernet_to_local, Link::Ethernet, Direction::ToLocal);
thorough!(ip_from_local, Link::Ip, Direction::FromLocal);
thorough!(ip_to_local, Link::Ip, Direction::ToLocal);
