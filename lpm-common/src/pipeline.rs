//! A packet's way through the other modules: the quick way for the common
//! layout and known flows, the thorough way, in steps, for everything else.

pub mod inside;
pub mod joined;

use crate::{
    bytes::{Bytes, Prefix},
    env::{Claims, Env},
    hash::{self, Seeds},
    layout::InterfaceConfig,
    matcher::{self, Wire},
    packet::{Direction, Meta},
    parse::{self, Common, Link, Network, Packet, Skip},
    table::{self, Birth, Table},
};

/// Settings of interfaces, asked for when a flow appears.
pub trait Interfaces {
    /// Those of this interface, if it is known.
    fn config(&self, ifindex: u32) -> Option<InterfaceConfig>;
}

/// Measures a packet of the common layout whose flow has an entry. False: it
/// is something else, and nothing was counted; see [`network`].
#[inline(always)]
pub fn quick<P: Prefix, S: Seeds, T: Table, E: Env>(
    bytes: &P,
    meta: &Meta,
    (link, direction): (Link, Direction),
    seeds: &S,
    table: &T,
    env: &E,
) -> bool {
    let packet = match parse::common(bytes, meta.len, link, direction, seeds) {
        Common::Tcp(packet) => packet,
        Common::Skip(skip) => {
            env.count(skip.counter(), u64::from(meta.segments));
            return true;
        }
        Common::Uncommon => return false,
    };
    let fingerprint = hash::fingerprint(
        seeds,
        packet.addresses,
        packet.ports,
        meta.ifindex,
        meta.vlan,
    );
    let Some(entry) = table::find(table, fingerprint) else {
        return false;
    };
    let Some(head) = parse::common_head(&bytes.after(packet.l4), &packet) else {
        return false;
    };
    let wire = Wire::new(meta.len, meta.segments, head.headers);
    matcher::packet(entry, fingerprint, direction, &head, wire, env);
    true
}

/// The thorough way as a whole, for packets that [`quick`] does not know: what
/// host code does. The kernel programs take its steps one by one, and hand
/// over from each to the next through a map, for the verifier's sake.
pub fn thorough<B, S, T, E>(
    bytes: &B,
    meta: &Meta,
    (link, direction): (Link, Direction),
    seeds: &S,
    table: &T,
    env: &E,
) where
    B: Bytes,
    S: Seeds,
    T: Table + Claims + Interfaces,
    E: Env,
{
    let packet =
        network(bytes, meta, link, env).and_then(|network| transport(bytes, meta, &network, env));
    if let Some(packet) = packet {
        enter(&packet, meta, direction, seeds, table, env);
    }
}

/// The steps from the third on, likewise, of a packet that was read.
pub fn enter<S, T, E>(
    packet: &Packet,
    meta: &Meta,
    direction: Direction,
    seeds: &S,
    table: &T,
    env: &E,
) where
    S: Seeds,
    T: Table + Claims + Interfaces,
    E: Env,
{
    if appears(packet, meta.ifindex, direction, seeds, table) {
        appear(packet, meta.ifindex, direction, seeds, table, env);
    }
    measure(packet, meta, direction, seeds, table, env);
}

/// The thorough way, first step: reads any packet up to its TCP header. None:
/// there is nothing to measure in it, and it is counted.
#[inline(always)]
pub fn network<B: Bytes, E: Env>(bytes: &B, meta: &Meta, link: Link, env: &E) -> Option<Network> {
    counted(parse::network(bytes, link, meta), meta, env)
}

/// Second step: reads the TCP header, likewise.
#[inline(always)]
pub fn transport<B: Bytes, E: Env>(
    bytes: &B,
    meta: &Meta,
    network: &Network,
    env: &E,
) -> Option<Packet> {
    counted(parse::transport(bytes, network), meta, env)
}

#[inline(always)]
fn counted<T, E: Env>(read: Result<T, Skip>, meta: &Meta, env: &E) -> Option<T> {
    match read {
        Ok(read) => Some(read),
        Err(skip) => {
            env.count(skip.counter(), u64::from(meta.segments));
            None
        }
    }
}

/// Third step: whether the packet's flow has no entry yet, or starts anew in
/// the one it has.
#[inline(always)]
pub fn appears<S: Seeds, T: Table>(
    packet: &Packet,
    ifindex: u32,
    direction: Direction,
    seeds: &S,
    table: &T,
) -> bool {
    let fingerprint = hash::of_key(seeds, &packet.key(direction, ifindex));
    match table::find(table, fingerprint) {
        Some(entry) => packet.head.opens() && table::restarts(entry, direction),
        None => true,
    }
}

/// Fourth step, if it does: gives the flow an entry, or a new start. That there
/// is none to be had is counted.
#[inline(always)]
pub fn appear<S, T, E>(
    packet: &Packet,
    ifindex: u32,
    direction: Direction,
    seeds: &S,
    table: &T,
    env: &E,
) where
    S: Seeds,
    T: Table + Claims + Interfaces,
    E: Env,
{
    let key = packet.key(direction, ifindex);
    let fingerprint = hash::of_key(seeds, &key);
    let vantage = table.config(ifindex).map_or(0, |config| config.vantage);
    let birth = Birth {
        key,
        ifindex,
        vantage,
        opened: packet.head.opens(),
    };
    table::obtain(table, table, env, fingerprint, &birth);
}

/// Last step: measures the packet if its flow has an entry.
#[inline(always)]
pub fn measure<S: Seeds, T: Table, E: Env>(
    packet: &Packet,
    meta: &Meta,
    direction: Direction,
    seeds: &S,
    table: &T,
    env: &E,
) {
    let fingerprint = hash::of_key(seeds, &packet.key(direction, meta.ifindex));
    if let Some(entry) = table::find(table, fingerprint) {
        let wire = Wire::new(meta.len, meta.segments, packet.head.headers);
        matcher::packet(entry, fingerprint, direction, &packet.head, wire, env);
    }
}
