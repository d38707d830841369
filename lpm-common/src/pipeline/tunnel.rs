//! The way of a packet where the insides of tunnels are measured too: the
//! tunnels around it are taken off first, then it goes the way of any other
//! ([`crate::pipeline`]). Kernel programs that have no tunnels to look into
//! hold nothing of this.

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

/// The frame that is left when tunnels are taken off a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unwrapped {
    /// Where it begins, from the start of the packet.
    pub base: u32,
    /// Its length, bytes.
    pub len: u32,
    /// Tunnels taken off so far.
    pub level: u32,
    /// [`crate::layout::FlowCold::segment`] of a flow inside.
    pub segment: u32,
    /// What else tells such a flow apart.
    pub wrap: Wrap,
    /// VLAN id in the packet's metadata; 0: none, or below a tunnel.
    pub vlan: u32,
    /// Whether it begins with its IP header.
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

/// What [`unwrap`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// No tunnel any more: measure what is left.
    Plain,
    /// This is left; there may be another tunnel.
    Entered(Unwrapped),
    /// Nothing to measure; counted.
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

/// The packet's metadata, as they are of what is left of it.
#[inline(always)]
#[must_use]
pub fn meta_of(left: &Unwrapped, meta: &Meta) -> Meta {
    // Without asking for the level: a choice between the packet's metadata and
    // a map's memory is one that the verifier refuses.
    Meta {
        len: left.len,
        vlan: left.vlan,
        ..*meta
    }
}

/// As [`pipeline::network`], of what is left.
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
    // Segments are merged where they fill the tunnel packet. Where they do
    // not, whole tunnel packets are, and only the first one's header is seen.
    if left.level != 0 && meta.segments > 1 && network.end != left.len {
        env.count(Skip::Merged.counter(), u64::from(meta.segments));
        return None;
    }
    // Questions and answers are measured at their ends' vantages only.
    if left.level != 0 && pipeline::is_datagram(&network) {
        env.count(Skip::NotTcp.counter(), u64::from(meta.segments));
        return None;
    }
    Some(network)
}

/// As [`pipeline::transport`], of what is left.
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

/// As [`pipeline::fast_path`], for the usual tunnel packet too: Ethernet, IPv4
/// without options, UDP, `VxLAN` or Geneve, Ethernet, and then what that knows.
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
    // What is inside begins as a frame of an Ethernet device does.
    if base != 0 && matches!(cx.link, Link::Ip) {
        return FastPath::Uncommon;
    }
    pipeline::fast_path(&bytes.after(base), &cx.with(inner), stash)
}

#[cfg(test)]
mod tests;
