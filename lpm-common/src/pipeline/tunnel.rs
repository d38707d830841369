//! The way of a packet where packets inside tunnels are measured, too. The
//! tunnels around the packet are taken off first; then it goes the way of any
//! other packet ([`crate::pipeline`]). Kernel programs that look into no
//! tunnels contain none of this.

use crate::{
    bytes::{Bytes, Prefix},
    env::Env,
    layout::tunnel::{self, segment_of},
    packet::{Meta, Wrap},
    parse::{
        Link, Network, Packet, Skip,
        tunnel::{Inside, LEVELS, Shortcut, Tunnels, Within, open, shortcut},
    },
    pipeline::{self, FastPath, Host, PacketContext, ParsedFlowPacket},
};

/// The frame that is left after tunnels are taken off a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unwrapped {
    /// Where the frame begins, from the start of the packet.
    pub base: u32,
    /// Length of the frame, bytes.
    pub len: u32,
    /// Number of tunnels taken off so far.
    pub level: u32,
    /// [`crate::layout::FlowCold::segment`] of a flow inside the tunnels.
    pub segment: u32,
    /// The rest of what identifies such a flow.
    pub wrap: Wrap,
    /// VLAN id in the packet's metadata; 0: none, or a tunnel was taken off.
    pub vlan: u32,
    /// Whether the frame begins with its IP header.
    pub is_ip: bool,
}

impl Unwrapped {
    /// The whole packet: nothing is taken off yet.
    #[inline(always)]
    #[must_use]
    pub fn whole(meta: &Meta, link: Link) -> Self {
        Self {
            len: meta.len,
            vlan: meta.vlan,
            is_ip: matches!(link, Link::Ip),
            ..Self::default()
        }
    }

    #[inline(always)]
    fn link(&self) -> Link {
        if self.is_ip { Link::Ip } else { Link::Ethernet }
    }

    #[inline(always)]
    fn enter(&self, inside: &Inside) -> Self {
        let (kind, vni) = (inside.kind, inside.vni);
        let mut wrap = self.wrap;
        let segment = if self.level == 0 {
            wrap.outer_tags = inside.tags;
            segment_of(kind, vni, 0)
        } else {
            wrap.outer_vni = self.segment & tunnel::VNI;
            segment_of(kind, vni, tunnel::kind_of(self.segment))
        };
        Self {
            base: self.base.wrapping_add(inside.at),
            len: inside.end.wrapping_sub(inside.at),
            level: self.level + 1,
            segment,
            wrap,
            vlan: 0,
            is_ip: inside.is_ip,
        }
    }
}

/// What [`unwrap`] finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is no further tunnel: measure what is left.
    Plain,
    /// A tunnel was taken off and this is left; there may be another tunnel.
    Entered(Unwrapped),
    /// Nothing can be measured, which is counted.
    Skipped,
}

/// Takes one tunnel off the packet `bytes`, of which `so_far` is left.
#[inline(always)]
pub fn unwrap<B: Bytes + Copy, T: Tunnels, E: Env>(
    bytes: B,
    so_far: &Unwrapped,
    meta: &Meta,
    tunnels: &T,
    env: &E,
) -> Step {
    let within = Within::new(bytes, so_far.base, so_far.len);
    let skip = match open(&within, so_far.link(), so_far.vlan, tunnels) {
        Ok(inside) if inside.at == 0 => return Step::Plain,
        // Tags between two tunnels have no place in the key.
        Ok(inside) if so_far.level < LEVELS && (so_far.level == 0 || inside.tags == 0) => {
            return Step::Entered(so_far.enter(&inside));
        }
        Ok(_) => Skip::TooDeep,
        Err(skip) => skip,
    };
    env.count(skip.counter(), u64::from(meta.segments));
    Step::Skipped
}

/// The packet's metadata, as they apply to the frame that is left.
#[inline(always)]
#[must_use]
pub fn meta_of(left: &Unwrapped, meta: &Meta) -> Meta {
    // The level is not asked for: it would make a choice between the packet's
    // metadata and a map's memory, which the verifier refuses.
    Meta {
        len: left.len,
        vlan: left.vlan,
        ..*meta
    }
}

/// Runs [`pipeline::network`] on the frame that is left.
#[inline(always)]
pub fn network<B: Bytes, E: Env>(
    bytes: B,
    left: &Unwrapped,
    meta: &Meta,
    env: &E,
) -> Option<Network> {
    let within = Within::new(bytes, left.base, left.len);
    let inner = meta_of(left, meta);
    let network = pipeline::network(&within, &inner, left.link(), env)?;
    // The kernel merges segments that fill the tunnel packet. Otherwise it
    // merges whole tunnel packets, and only the first one's header can be
    // seen.
    if left.level != 0 && meta.segments > 1 && network.end != left.len {
        env.count(Skip::Merged.counter(), u64::from(meta.segments));
        return None;
    }
    // Queries and their answers are measured at their ends' vantages only.
    if left.level != 0 && pipeline::is_datagram(&network) {
        env.count(Skip::NotTcp.counter(), u64::from(meta.segments));
        return None;
    }
    Some(network)
}

/// Runs [`pipeline::transport`] on the frame that is left.
#[inline(always)]
pub fn transport<B: Bytes, E: Env>(
    bytes: B,
    left: &Unwrapped,
    meta: &Meta,
    network: &Network,
    env: &E,
) -> Option<Packet> {
    let within = Within::new(bytes, left.base, left.len);
    let mut packet = pipeline::transport(&within, &meta_of(left, meta), network, env)?;
    if left.level != 0 {
        packet.wrap = Wrap {
            inner_tags: packet.segment,
            ..left.wrap
        };
        packet.segment = left.segment;
    }
    Some(packet)
}

/// The fast path ([`pipeline::fast_path`]), which takes the usual tunnel
/// packet, too: Ethernet, IPv4 without options, UDP, `VxLAN` or Geneve,
/// Ethernet, and then the common layout.
#[inline(always)]
pub fn fast_path<P: Prefix, H: Host, T: Tunnels, E: Env>(
    bytes: &P,
    cx: &PacketContext<'_, H, E>,
    tunnels: &T,
    stash: impl FnOnce(&ParsedFlowPacket),
) -> FastPath {
    let mut inner = cx.meta;
    let mut base = 0;
    match shortcut(bytes, &cx.meta, cx.link, tunnels) {
        Shortcut::Plain => {}
        Shortcut::Long => return FastPath::Uncommon,
        Shortcut::Inside {
            base: at,
            len,
            segment,
        } => {
            base = at;
            inner.len = len;
            inner.vlan = segment;
        }
    }
    // The inner frame begins as a frame of an Ethernet device does.
    if base != 0 && matches!(cx.link, Link::Ip) {
        return FastPath::Uncommon;
    }
    pipeline::fast_path(&bytes.after(base), &cx.with(inner), stash)
}

#[cfg(test)]
mod tests;
