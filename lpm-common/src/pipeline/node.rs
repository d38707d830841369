//! The vantage `node`: several hooks that are one.
//!
//! Where a CNI redirects packets into a pod (`bpf_redirect_peer`), they never
//! pass the pod's own veth. Then what the pod sends is seen where it enters the
//! host, and what is sent to it where *that* enters: at a network card, a
//! tunnel, another pod's veth. These hooks name their flows by [`GROUP`]
//! instead of an interface, and so find one entry.
//!
//! Packets to the pod only measure flows that have an entry. The pod's own
//! packet makes it; or, so that connections to the pod are seen from their
//! beginning, a SYN to an address from which a pod has sent before. So the
//! host's other traffic costs one look-up that fails, and leaves nothing.

use core::sync::atomic::Ordering::Relaxed;

use crate::{
    bytes::Prefix,
    env::{Claims, Env},
    hash::{self, Seeds},
    layout::{Methods, Vantage},
    matcher::{FlowPacket, Wire},
    packet::{Direction, Meta, flag},
    parse::{self, Common, Link, Packet},
    pipeline::{FastPath, Interfaces, Lookup, ParsedFlowPacket, of_flow},
    query::{self, Queries, Query, Role},
    table::{self, NewFlow, Table},
};

/// The interface in the keys of all joined flows. No interface has this number.
pub const GROUP: u32 = u32::MAX;

/// Where the pods are.
pub trait PodAddresses {
    /// The interface of the pod that has sent from this address.
    fn home(&self, address: [u32; 4]) -> Option<u32>;

    /// A pod has sent from this address. The first interface keeps it until
    /// the interface goes: nobody takes an address from another by using it.
    fn settle(&self, address: [u32; 4], ifindex: u32);
}

/// What the flows' keys have of a packet's surroundings: no tag, because it is
/// there at one hook and not at the other.
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

/// A packet that may be on its way to a pod. `meta` is [`meta`]'s. What is
/// nobody's is not counted; the beginning of a flow is [`FastPath::Uncommon`].
#[inline(always)]
pub fn quick_to_pod<P: Prefix, S: Seeds, T: Table, E: Env>(
    bytes: &P,
    meta: &Meta,
    link: Link,
    seeds: &S,
    table: &T,
    env: &E,
    stash: impl FnOnce(&ParsedFlowPacket),
) -> FastPath {
    let packet = match parse::common(
        bytes,
        meta.len,
        link,
        Direction::ToLocal,
        seeds,
        env.methods(),
    ) {
        Common::Tcp(packet) => packet,
        Common::Skip(_) => return FastPath::Measured,
        Common::Uncommon => return FastPath::Uncommon,
    };
    let fingerprint = hash::fingerprint(seeds, packet.addresses, packet.ports, GROUP, 0);
    let tcp = bytes.after(packet.l4);
    let Some(entry) = table::find(table, fingerprint) else {
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
    of_flow(&at, &head, env, stash)
}

/// Whether a packet of the common layout goes to a pod whose flow is known.
#[inline(always)]
pub fn is_to_known<P: Prefix, S: Seeds, T: Table>(
    bytes: &P,
    meta: &Meta,
    link: Link,
    seeds: &S,
    table: &T,
) -> bool {
    // No method: of questions and answers nothing is wanted here.
    let found = parse::common(bytes, meta.len, link, Direction::ToLocal, seeds, Methods(0));
    let Common::Tcp(packet) = found else {
        return false;
    };
    let fingerprint = hash::fingerprint(seeds, packet.addresses, packet.ports, GROUP, 0);
    table::find(table, fingerprint).is_some()
}

/// Third step: looks for the entry of the packet's flow, which bears no VLAN.
/// Returns its fingerprint too. [`Lookup::Anew`]: the flow has to be given an
/// entry, or a new start. What is nobody's is [`Lookup::Known`] without an entry.
#[inline(always)]
pub fn find<S: Seeds, T: Table + PodAddresses + Interfaces>(
    packet: &Packet,
    direction: Direction,
    seeds: &S,
    table: &T,
) -> (u64, Lookup) {
    let fingerprint = hash::of_key(seeds, &packet.key(direction, GROUP));
    let is_new_flow = match table::find(table, fingerprint) {
        Some(entry) => packet.head.opens() && table::restarts(entry, direction, &packet.head),
        None if direction == Direction::FromLocal => true,
        None => packet.head.opens() && home(packet.dst, table).is_some(),
    };
    let found = if is_new_flow {
        Lookup::Anew
    } else {
        Lookup::Known
    };
    (fingerprint, found)
}

/// The interface of the pod with this address, while it is one of those that
/// are joined.
#[inline(always)]
fn home<T: PodAddresses + Interfaces>(address: [u32; 4], table: &T) -> Option<u32> {
    let home = table.home(address)?;
    let joined = table.config(home)?.vantage == Vantage::Node as u8;
    joined.then_some(home)
}

/// Makes a question or an answer one of the joined vantage's; `ifindex` is the
/// hook's. False: it is neither, or nobody's.
#[inline(always)]
pub fn take_query<S, T>(
    query: &mut Query,
    ifindex: u32,
    direction: Direction,
    seeds: &S,
    table: &T,
) -> bool
where
    S: Seeds,
    T: Queries + Interfaces + PodAddresses,
{
    query.key.ifindex = GROUP;
    query.key.segment = 0;
    match (query.head.role, direction) {
        (Role::Neither, _) => false,
        (Role::Announces, Direction::ToLocal) => home(query.key.local, table).is_some(),
        (Role::Asks, Direction::FromLocal) => {
            table.settle(query.key.local, ifindex);
            query.ifindex = ifindex;
            true
        }
        (Role::Asks, Direction::ToLocal) => match home(query.key.local, table) {
            Some(home) => {
                query.ifindex = home;
                true
            }
            None => false,
        },
        (Role::Answers | Role::Announces, Direction::FromLocal) => true,
        (Role::Answers, Direction::ToLocal) => query::knows(table, query.fingerprint(seeds)),
    }
}

/// Fourth step, if it has to: gives the flow an entry under this fingerprint, or
/// a new start. `ifindex` is the hook's.
#[inline(always)]
pub fn insert_flow<T, E>(
    packet: &Packet,
    fingerprint: u64,
    (ifindex, direction): (u32, Direction),
    table: &T,
    env: &E,
) where
    T: Table + Claims + Interfaces + PodAddresses,
    E: Env,
{
    let ifindex = match direction {
        Direction::FromLocal => {
            table.settle(packet.src, ifindex);
            ifindex
        }
        Direction::ToLocal => match table::find(table, fingerprint) {
            Some(entry) => entry.cold.ifindex.load(Relaxed),
            None => match home(packet.dst, table) {
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
    table::find_or_insert(table, table, env, fingerprint, &birth);
}
