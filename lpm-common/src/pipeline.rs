//! A packet's way through the other modules: the quick way for the common
//! layout and known flows, the thorough way for everything else.

use crate::{
    bytes::{Bytes, Prefix},
    env::{Claims, Env},
    hash::{self, Seeds},
    layout::InterfaceConfig,
    matcher::{self, Wire},
    packet::{Direction, Meta, flag},
    parse::{self, Common, Link, Skip},
    table::{self, Birth, Table},
};

/// Settings of interfaces, asked for when a flow appears.
pub trait Interfaces {
    /// Those of this interface, if it is known.
    fn config(&self, ifindex: u32) -> Option<InterfaceConfig>;
}

/// Measures a packet of the common layout whose flow has an entry. False: it
/// is something else, and nothing was counted; see [`thorough`].
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
    let wire = Wire::new(meta.len, meta.segments, packet.head.headers);
    matcher::packet(entry, fingerprint, direction, &packet.head, wire, env);
    true
}

/// Measures any packet, and makes an entry for its flow if it has none.
///
/// # Errors
/// [`Skip`]: why there is nothing to measure; it is counted.
pub fn thorough<B, S, T, E>(
    bytes: &B,
    meta: &Meta,
    (link, direction): (Link, Direction),
    seeds: &S,
    table: &T,
    env: &E,
) -> Result<(), Skip>
where
    B: Bytes,
    S: Seeds,
    T: Table + Claims + Interfaces,
    E: Env,
{
    let packet = match parse::full(bytes, link, meta) {
        Ok(packet) => packet,
        Err(skip) => {
            env.count(skip.counter(), u64::from(meta.segments));
            return Err(skip);
        }
    };
    let key = packet.key(direction, meta);
    let fingerprint = hash::of_key(seeds, &key);
    let opened = packet.head.has(flag::SYN) && !packet.head.has(flag::ACK);
    let found = table::find(table, fingerprint);
    let entry = match found {
        Some(entry) if !(opened && table::restarts(entry, direction)) => Some(entry),
        _ => {
            let vantage = table
                .config(meta.ifindex)
                .map_or(0, |config| config.vantage);
            let birth = Birth {
                key,
                vantage,
                opened,
            };
            table::obtain(table, table, env, fingerprint, &birth, found.is_some())
        }
    };
    if let Some(entry) = entry {
        let wire = Wire::new(meta.len, meta.segments, packet.head.headers);
        matcher::packet(entry, fingerprint, direction, &packet.head, wire, env);
    }
    Ok(())
}
