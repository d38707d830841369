//! The node vantage (`node`): several hooks that act as one vantage.
//!
//! Where a CNI redirects packets into a pod (`bpf_redirect_peer`), they never
//! pass the pod's own veth. What the pod sends is then seen where it enters the
//! host. What is sent to the pod is seen where *that* enters the host: at a
//! network card, a tunnel, another pod's veth. Flows at these hooks have
//! [`GROUP`] in their key instead of an interface, so all hooks find the same
//! entry.
//!
//! Packets to a pod only measure flows that have an entry. The pod's own packet
//! makes the entry. So does a SYN to an address from which a pod has sent
//! before, so that connections to the pod are seen from their beginning. The
//! host's other traffic costs one failing look-up and leaves nothing behind.

use core::sync::atomic::Ordering::Relaxed;

use crate::{
    bytes::Prefix,
    env::Env,
    hash,
    layout::{Methods, Vantage},
    matcher::{FlowPacket, Wire},
    packet::{Direction, Meta, flag},
    parse::{self, Common, Frame, Link, Packet},
    pipeline::{FastPath, Host, Interfaces, Lookup, PacketContext, ParsedFlowPacket, of_flow},
    query::{self, Query, Role},
    table::{self, NewFlow},
};

/// The interface number in the keys of all flows at the node vantage. No
/// interface has this number.
pub const GROUP: u32 = u32::MAX;

/// Which pod has which address.
pub trait PodAddresses {
    /// The interface of the pod that has sent from this address, if any has.
    fn home(&self, address: [u32; 4]) -> Option<u32>;

    /// Notes that a pod has sent from this address. The first interface keeps
    /// the address until the interface goes: no pod takes an address from
    /// another by using it.
    fn settle(&self, address: [u32; 4], ifindex: u32);
}

/// The metadata that go into the keys of flows at the node vantage. The VLAN
/// tag is left out, because it is there at one hook and not at another.
#[inline(always)]
#[must_use]
pub const fn meta(meta: &Meta) -> Meta {
    Meta {
        len: meta.len,
        segments: meta.segments,
        ifindex: GROUP,
        vlan: 0,
    }
}

/// The fast path for a packet that may be on its way to a pod. The metadata in
/// `cx` are the result of [`meta`]. A packet to no pod is not counted. The
/// beginning of a flow is [`FastPath::Uncommon`].
#[inline(always)]
pub fn fast_path_to_pod<P: Prefix, H: Host, E: Env>(
    bytes: &P,
    cx: &PacketContext<'_, H, E>,
    stash: impl FnOnce(&ParsedFlowPacket),
) -> FastPath {
    let (meta, seeds) = (&cx.meta, cx.host);
    let frame = Frame {
        len: meta.len,
        link: cx.link,
        direction: Direction::ToLocal,
        methods: cx.env.methods(),
    };
    let packet = match parse::common(bytes, &frame, seeds) {
        Common::Tcp(packet) => packet,
        Common::Skip(_) => return FastPath::Measured,
        Common::Uncommon => return FastPath::Uncommon,
    };
    let fingerprint = hash::fingerprint(seeds, packet.addresses, packet.ports, GROUP, 0);
    let tcp = bytes.after(packet.l4);
    let Some(entry) = table::find(cx.host, fingerprint) else {
        const TCP_HEADER: usize = 20;
        let opens = tcp.covers(TCP_HEADER) && tcp.byte(13) & (flag::SYN | flag::ACK) == flag::SYN;
        return if opens {
            FastPath::Uncommon
        } else {
            FastPath::Measured
        };
    };
    let Some(head) = parse::common_head(&tcp, &packet) else {
        return FastPath::Uncommon;
    };
    let at = FlowPacket {
        entry,
        fingerprint,
        direction: Direction::ToLocal,
        wire: Wire::new(meta.len, meta.segments, head.headers),
    };
    of_flow(&at, &head, cx.env, stash)
}

/// Whether a packet of the common layout goes to a pod and its flow has an
/// entry.
#[inline(always)]
pub fn is_to_known<P: Prefix, H: Host>(bytes: &P, meta: &Meta, link: Link, host: &H) -> bool {
    let frame = Frame {
        len: meta.len,
        link,
        direction: Direction::ToLocal,
        // No method is on: queries and answers are of no interest here.
        methods: Methods(0),
    };
    let found = parse::common(bytes, &frame, host);
    let Common::Tcp(packet) = found else {
        return false;
    };
    let fingerprint = hash::fingerprint(host, packet.addresses, packet.ports, GROUP, 0);
    table::find(host, fingerprint).is_some()
}

/// Third step of the slow path: looks for the entry of the packet's flow, and
/// returns the flow's fingerprint too. [`Lookup::Anew`]: the flow needs an entry,
/// or starts anew. A packet to no pod is [`Lookup::Known`], without an entry.
#[inline(always)]
pub fn find<H: Host + PodAddresses, E: Env>(
    packet: &Packet,
    direction: Direction,
    host: &H,
    env: &E,
) -> (u64, Lookup) {
    let fingerprint = hash::of_key(host, &packet.key(direction, GROUP));
    let is_new_flow = match table::find(host, fingerprint) {
        Some(entry) => {
            packet.head.opens() && table::restarts(entry, direction, &packet.head, (host, env))
        }
        None if direction == Direction::FromLocal => true,
        None => packet.head.opens() && home(packet.dst, host).is_some(),
    };
    let found = if is_new_flow {
        Lookup::Anew
    } else {
        Lookup::Known
    };
    (fingerprint, found)
}

/// The interface of the pod with this address, while the pod belongs to the
/// node vantage.
#[inline(always)]
fn home<T: PodAddresses + Interfaces>(address: [u32; 4], table: &T) -> Option<u32> {
    let home = table.home(address)?;
    let joined = table.config(home)?.vantage == Vantage::Node as u8;
    joined.then_some(home)
}

/// Moves a query or an answer to the node vantage. `ifindex` is the hook's
/// interface. False: the packet is neither, or no pod's.
#[inline(always)]
pub fn take_query<H: Host + PodAddresses>(
    query: &mut Query,
    ifindex: u32,
    direction: Direction,
    host: &H,
) -> bool {
    query.key.ifindex = GROUP;
    query.key.segment = 0;
    match (query.head.role, direction) {
        (Role::Neither, _) => false,
        (Role::Announces, Direction::ToLocal) => home(query.key.local, host).is_some(),
        (Role::Asks, Direction::FromLocal) => {
            host.settle(query.key.local, ifindex);
            query.ifindex = ifindex;
            true
        }
        (Role::Asks, Direction::ToLocal) => match home(query.key.local, host) {
            Some(home) => {
                query.ifindex = home;
                true
            }
            None => false,
        },
        (Role::Answers | Role::Announces, Direction::FromLocal) => true,
        (Role::Answers, Direction::ToLocal) => query::knows(host, query.fingerprint(host)),
    }
}

/// Fourth step, if the flow needs an entry or starts anew: makes it under this
/// fingerprint. `ifindex` is the hook's interface.
#[inline(always)]
pub fn insert_flow<H: Host + PodAddresses, E: Env>(
    packet: &Packet,
    fingerprint: u64,
    ifindex: u32,
    cx: &PacketContext<'_, H, E>,
) {
    let (host, direction) = (cx.host, cx.direction);
    let ifindex = match direction {
        Direction::FromLocal => {
            host.settle(packet.src, ifindex);
            ifindex
        }
        Direction::ToLocal => match table::find(host, fingerprint) {
            Some(entry) => entry.cold.ifindex.load(Relaxed),
            None => match home(packet.dst, host) {
                Some(home) => home,
                None => return,
            },
        },
    };
    let birth = NewFlow {
        key: packet.key(direction, GROUP),
        ifindex,
        vantage: Vantage::Node as u8,
        opened: packet.head.opens(),
    };
    table::find_or_insert(host, host, cx.env, fingerprint, &birth);
}
