//! A packet's way through the other modules: the quick way for the common
//! layout and known flows, the thorough way, in steps, for everything else.

pub mod inside;
pub mod joined;

use crate::{
    bytes::{Bytes, Prefix},
    env::{Claims, Env},
    hash::{self, Seeds},
    layout::{InterfaceConfig, Method, Vantage},
    matcher::{self, At, SHAKE, Wire},
    packet::{Direction, Meta, TcpHead},
    parse::{self, Common, Link, Network, Packet, Skip, number},
    query::{self, Ledger, Queries, Query, Role},
    table::{self, Birth, Table},
};

/// Settings of interfaces, asked for when a flow appears.
pub trait Interfaces {
    /// Those of this interface, if it is known.
    fn config(&self, ifindex: u32) -> Option<InterfaceConfig>;
}

/// A packet of a flow that has an entry: what one step hands to the next.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// Of the flow's key.
    pub fingerprint: u64,
    /// The TCP header.
    pub head: TcpHead,
    /// Size on the wire.
    pub wire: Wire,
    /// What [`matcher::prepare`] said.
    pub next: u32,
}

/// What [`quick`] has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Quick {
    /// Nothing: a rare layout, or a flow without entry; see [`network`].
    Uncommon = 0,
    /// The packet is measured, or counted as skipped, or nobody's.
    Measured = 1,
    /// It has handed over a [`Known`] packet; see [`prepare`].
    Known = 2,
}

/// Measures a packet of the common layout whose flow has an entry.
#[inline(always)]
pub fn quick<P: Prefix, S: Seeds, T: Table, E: Env>(
    bytes: &P,
    meta: &Meta,
    (link, direction): (Link, Direction),
    seeds: &S,
    table: &T,
    env: &E,
    hand_over: impl FnOnce(&Known),
) -> Quick {
    let packet = match parse::common(bytes, meta.len, link, direction, seeds, env.methods()) {
        Common::Tcp(packet) => packet,
        Common::Skip(skip) => {
            env.count(skip.counter(), u64::from(meta.segments));
            return Quick::Measured;
        }
        Common::Uncommon => return Quick::Uncommon,
    };
    let fingerprint = hash::fingerprint(
        seeds,
        packet.addresses,
        packet.ports,
        meta.ifindex,
        meta.vlan,
    );
    let Some(entry) = table::find(table, fingerprint) else {
        return Quick::Uncommon;
    };
    let Some(head) = parse::common_head(&bytes.after(packet.l4), &packet) else {
        return Quick::Uncommon;
    };
    let at = At {
        entry,
        fingerprint,
        direction,
        wire: Wire::new(meta.len, meta.segments, head.headers),
    };
    of_flow(&at, &head, env, hand_over)
}

/// The end of the quick way: a packet whose flow has an entry.
#[inline(always)]
pub(crate) fn of_flow<E: Env>(
    at: &At<'_>,
    head: &TcpHead,
    env: &E,
    hand_over: impl FnOnce(&Known),
) -> Quick {
    if matcher::timed(at, head, env) {
        return Quick::Measured;
    }
    hand_over(&Known {
        fingerprint: at.fingerprint,
        head: *head,
        wire: at.wire,
        next: 0,
    });
    Quick::Known
}

/// Both ways as a whole: what host code does.
pub fn measure<B, S, T, E>(
    bytes: &B,
    meta: &Meta,
    way: (Link, Direction),
    seeds: &S,
    table: &T,
    env: &E,
) where
    B: Bytes + Prefix,
    S: Seeds,
    T: Table + Claims + Interfaces + Queries + Ledger,
    E: Env,
{
    let quick =
        |hand_over: &mut dyn FnMut(&Known)| quick(bytes, meta, way, seeds, table, env, hand_over);
    if after(quick, way.1, table, env) == Quick::Uncommon {
        thorough(bytes, meta, way, seeds, table, env);
    }
}

/// A quick way and, if it hands over a packet, what comes after it.
pub fn after<T: Table, E: Env>(
    quick: impl FnOnce(&mut dyn FnMut(&Known)) -> Quick,
    direction: Direction,
    table: &T,
    env: &E,
) -> Quick {
    let mut known = None;
    let done = quick(&mut |packet| known = Some(*packet));
    if let Some(known) = known {
        finish(known, direction, table, env);
    }
    done
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
    T: Table + Claims + Interfaces + Queries + Ledger,
    E: Env,
{
    let Some(network) = network(bytes, meta, link, env) else {
        return;
    };
    if is_datagram(&network) {
        let query = datagram(bytes, meta, &network, direction, env);
        question(&query, seeds, table, env);
    } else if let Some(packet) = transport(bytes, meta, &network, env) {
        let query = message(bytes, &packet, meta.ifindex, direction, env);
        question(&query, seeds, table, env);
        enter(&packet, meta, direction, seeds, table, env);
    }
}

/// The last step for a question or an answer, likewise.
pub fn question<S, T, E>(query: &Query, seeds: &S, table: &T, env: &E)
where
    S: Seeds,
    T: Queries + Claims + Ledger,
    E: Env,
{
    let fingerprint = query.fingerprint(seeds);
    match query.head.role {
        Role::Neither => {}
        Role::Asks => query::ask(query, table.row(query), fingerprint, table, env),
        Role::Answers => {
            let sample = query::answer(query, fingerprint, table, env);
            if sample.found {
                table.answered(query, &sample);
            }
        }
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
    finish(known(packet, meta, direction, seeds), direction, table, env);
}

/// The thorough way, first step: reads any packet up to its TCP header, or
/// that of a protocol for [`datagram`]. None: there is nothing to measure in
/// it, and it is counted.
#[inline(always)]
pub fn network<B: Bytes, E: Env>(bytes: &B, meta: &Meta, link: Link, env: &E) -> Option<Network> {
    counted(parse::network(bytes, link, meta, env.methods()), meta, env)
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

/// Whether a packet is for [`datagram`] and not for [`transport`].
#[inline(always)]
#[must_use]
pub const fn is_datagram(network: &Network) -> bool {
    network.protocol != number::TCP
}

/// Second step for other protocols than TCP: reads a question or an answer.
/// `Role::Neither` in it: there is nothing to measure, and it is counted.
#[inline(always)]
pub fn datagram<B: Bytes, E: Env>(
    bytes: &B,
    meta: &Meta,
    network: &Network,
    direction: Direction,
    env: &E,
) -> Query {
    match query::datagram(bytes, network, direction, meta.ifindex) {
        Ok(mut query) => {
            if meta.segments > 1 {
                query.head.detail |= query::dns::FURTHER;
            }
            query
        }
        Err(counter) => {
            env.count(counter, u64::from(meta.segments));
            Query::default()
        }
    }
}

/// After the second step of a TCP packet: reads the question or the answer that
/// it carries. `Role::Neither` in it: there is none.
#[inline(always)]
pub fn message<B: Bytes, E: Env>(
    bytes: &B,
    packet: &Packet,
    ifindex: u32,
    direction: Direction,
    env: &E,
) -> Query {
    if !env.methods().has(Method::Dns) || !query::dns::over_tcp(packet, direction) {
        return Query::default();
    }
    match query::dns::tcp(bytes, packet, direction, ifindex) {
        Ok(query) => query,
        Err(counter) => {
            env.count(counter, 1);
            Query::default()
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
        Some(entry) => packet.head.opens() && table::restarts(entry, direction, &packet.head),
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
    let entry = table::obtain(table, table, env, fingerprint, &birth);
    let sent = vantage == Vantage::Nic as u8 && direction == Direction::FromLocal;
    if let Some(entry) = entry
        && sent
        && env.sent_here(packet.src, packet.sport)
    {
        entry.cold.set_hosts();
    }
}

/// What the last steps need of a packet whose flow ought to have an entry now.
#[inline(always)]
pub fn known<S: Seeds>(packet: &Packet, meta: &Meta, direction: Direction, seeds: &S) -> Known {
    Known {
        fingerprint: hash::of_key(seeds, &packet.key(direction, meta.ifindex)),
        head: packet.head,
        wire: Wire::new(meta.len, meta.segments, packet.head.headers),
        next: 0,
    }
}

/// Fifth step; see [`matcher::prepare`].
#[inline(always)]
pub fn prepare<T: Table, E: Env>(known: &Known, direction: Direction, table: &T, env: &E) -> u32 {
    match at(known, direction, table) {
        Some(at) => matcher::prepare(&at, &known.head, env),
        None => matcher::Next::Done as u32,
    }
}

/// Sixth step, if [`matcher::SHAKE`] is in [`Known::next`].
#[inline(always)]
pub fn shake<T: Table, E: Env>(known: &Known, direction: Direction, table: &T, env: &E) {
    if let Some(at) = at(known, direction, table) {
        matcher::shake(&at, &known.head, known.next, env);
    }
}

/// Last step, if the low byte of [`Known::next`] is [`TS`].
#[inline(always)]
pub fn by_ts<T: Table, E: Env>(known: &Known, direction: Direction, table: &T, env: &E) {
    if let Some(at) = at(known, direction, table) {
        matcher::by_ts(&at, &known.head, known.next, env);
    }
}

/// Last step, if it is [`SEQ`].
#[inline(always)]
pub fn by_seq<T: Table, E: Env>(known: &Known, direction: Direction, table: &T, env: &E) {
    if let Some(at) = at(known, direction, table) {
        matcher::by_seq(&at, &known.head, known.next, env);
    }
}

/// [`matcher::Next::Ts`] as it stands in [`Known::next`].
pub const TS: u32 = matcher::Next::Ts as u32;
/// [`matcher::Next::Seq`], likewise.
pub const SEQ: u32 = matcher::Next::Seq as u32;

/// All of the last steps, where nothing has to stand between them.
pub fn finish<T: Table, E: Env>(mut known: Known, direction: Direction, table: &T, env: &E) {
    known.next = prepare(&known, direction, table, env);
    if known.next & SHAKE != 0 {
        shake(&known, direction, table, env);
    }
    match known.next & 0xff {
        TS => by_ts(&known, direction, table, env),
        SEQ => by_seq(&known, direction, table, env),
        _ => {}
    }
}

#[inline(always)]
fn at<'t, T: Table>(known: &Known, direction: Direction, table: &'t T) -> Option<At<'t>> {
    let entry = table::find(table, known.fingerprint)?;
    Some(At {
        entry,
        fingerprint: known.fingerprint,
        direction,
        wire: known.wire,
    })
}
