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
    env::{Claims, Env},
    hash::{self, Seeds},
    layout::{Methods, Vantage},
    matcher::{FlowPacket, Wire},
    packet::{Direction, Meta, flag},
    parse::{self, Common, Link, Packet},
    pipeline::{FastPath, Interfaces, ParsedFlowPacket, of_flow},
    query::{self, Queries, Query, Role},
    table::{self, NewFlow, Table},
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

/// The fast path for a packet that may be on its way to a pod. `meta` is the
/// result of [`meta`]. A packet to no pod is not counted. The beginning of a
/// flow is [`FastPath::Uncommon`].
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

/// Whether a packet of the common layout goes to a pod and its flow has an
/// entry.
#[inline(always)]
pub fn is_to_known<P: Prefix, S: Seeds, T: Table>(
    bytes: &P,
    meta: &Meta,
    link: Link,
    seeds: &S,
    table: &T,
) -> bool {
    // No method is on: queries and answers are of no interest here.
    let found = parse::common(bytes, meta.len, link, Direction::ToLocal, seeds, Methods(0));
    let Common::Tcp(packet) = found else {
        return false;
    };
    let fingerprint = hash::fingerprint(seeds, packet.addresses, packet.ports, GROUP, 0);
    table::find(table, fingerprint).is_some()
}

/// Third step of the slow path: whether the packet's flow needs an entry, or
/// starts anew.
#[inline(always)]
pub fn is_new_flow<S: Seeds, T: Table + PodAddresses + Interfaces>(
    packet: &Packet,
    direction: Direction,
    seeds: &S,
    table: &T,
) -> bool {
    let fingerprint = hash::of_key(seeds, &packet.key(direction, GROUP));
    match table::find(table, fingerprint) {
        Some(entry) => packet.head.opens() && table::restarts(entry, direction, &packet.head),
        None if direction == Direction::FromLocal => true,
        None => packet.head.opens() && home(packet.dst, table).is_some(),
    }
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

/// Fourth step, if the flow needs an entry or starts anew: makes it. `ifindex`
/// is the hook's interface.
#[inline(always)]
pub fn insert_flow<S, T, E>(
    packet: &Packet,
    ifindex: u32,
    direction: Direction,
    seeds: &S,
    table: &T,
    env: &E,
) where
    S: Seeds,
    T: Table + Claims + Interfaces + PodAddresses,
    E: Env,
{
    let key = packet.key(direction, GROUP);
    let fingerprint = hash::of_key(seeds, &key);
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
        key,
        ifindex,
        vantage: Vantage::Node as u8,
        opened: packet.head.opens(),
    };
    table::find_or_insert(table, table, env, fingerprint, &birth);
}
