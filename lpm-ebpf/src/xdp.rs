//! The path of one packet at the XDP hook of a network card: what the card
//! received, before the kernel has made an skb of it. Sent packets are measured
//! at TC. Both hooks are one vantage.

use aya_ebpf::{bindings::xdp_action::XDP_PASS, programs::XdpContext};

use crate::{
    hook::{self, Way},
    settings::abandoned,
    tunnel,
};

/// Measures the packet. Always lets it pass.
#[inline(always)]
#[must_use]
pub fn measure<W: Way>(ctx: &XdpContext) -> u32 {
    if !abandoned() {
        hook::run::<W>(ctx.ctx);
    }
    XDP_PASS
}

/// Measures the packet, or the packet inside it. Always lets it pass.
#[inline(always)]
#[must_use]
pub fn measure_inside<W: Way>(ctx: &XdpContext) -> u32 {
    if !abandoned() {
        tunnel::run::<W>(ctx.ctx);
    }
    XDP_PASS
}
