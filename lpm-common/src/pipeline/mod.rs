//! A packet's way through the other modules: the fast path for the common
//! layout and known flows, the slow path, in steps, for everything else.

mod context;
pub mod node;
mod queries;
pub mod tunnel;

pub use context::{Host, PacketContext};
pub use queries::{datagram, further, message, queries, take_query};

use crate::{
    bytes::{Bytes, Prefix},
    env::Env,
    hash,
    layout::{InterfaceConfig, Method, Vantage},
    matcher::{self, FlowPacket, HANDSHAKE, Wire},
    packet::{Direction, Meta, TcpHead},
    parse::{self, Common, Frame, Link, Network, Packet, Skip, number},
    query::Ledger,
    table::{self, NewFlow, Table},
    vlan::{self, Placed},
};

/// Settings of interfaces, asked for when a flow appears.
pub trait Interfaces {
    /// Those of this interface, if it is known.
    fn config(&self, ifindex: u32) -> Option<InterfaceConfig>;
}

/// A packet of a flow that has an entry: what one step hands to the next.
#[derive(Clone, Copy, Debug, Default)]
pub struct ParsedFlowPacket {
    /// Of the flow's key.
    pub fingerprint: u64,
    /// The TCP header.
    pub head: TcpHead,
    /// Size on the wire.
    pub wire: Wire,
    /// What [`matcher::prepare`] said.
    pub next: u32,
}

/// What [`fast_path`] has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FastPath {
    /// Nothing: a rare layout, or a flow without entry; see [`network`].
    Uncommon = 0,
    /// The packet is measured, or counted as skipped, or nobody's.
    Measured = 1,
    /// It has handed over a [`ParsedFlowPacket`] packet; see [`prepare`].
    Known = 2,
}

/// Measures a packet of the common layout whose flow has an entry.
#[inline(always)]
pub fn fast_path<P: Prefix, H: Host, E: Env>(
    bytes: &P,
    cx: &PacketContext<'_, H, E>,
    stash: impl FnOnce(&ParsedFlowPacket),
) -> FastPath {
    let (meta, direction, seeds) = (&cx.meta, cx.direction, cx.host);
    let frame = Frame {
        len: meta.len,
        link: cx.link,
        direction,
        methods: cx.env.methods(),
    };
    let packet = match parse::common(bytes, &frame, seeds) {
        Common::Tcp(packet) => packet,
        Common::Skip(skip) => {
            cx.env.count(skip.counter(), u64::from(meta.segments));
            return FastPath::Measured;
        }
        Common::Uncommon => return FastPath::Uncommon,
    };
    let fingerprint = hash::fingerprint(
        seeds,
        packet.addresses,
        packet.ports,
        meta.ifindex,
        meta.vlan,
    );
    let Some(entry) = table::find(cx.host, fingerprint) else {
        return FastPath::Uncommon;
    };
    let Some(head) = parse::common_head(&bytes.after(packet.l4), &packet) else {
        return FastPath::Uncommon;
    };
    let at = FlowPacket {
        entry,
        fingerprint,
        direction,
        wire: Wire::new(meta.len, meta.segments, head.headers),
    };
    of_flow(&at, &head, cx.env, stash)
}

/// The end of the fast path: a packet whose flow has an entry.
#[inline(always)]
pub(crate) fn of_flow<E: Env>(
    at: &FlowPacket<'_>,
    head: &TcpHead,
    env: &E,
    stash: impl FnOnce(&ParsedFlowPacket),
) -> FastPath {
    if matcher::fast_ts(at, head, env) {
        return FastPath::Measured;
    }
    stash(&ParsedFlowPacket {
        fingerprint: at.fingerprint,
        head: *head,
        wire: at.wire,
        next: 0,
    });
    FastPath::Known
}

/// Both ways as a whole: what host code does.
pub fn measure<B, H, E>(bytes: &B, cx: &PacketContext<'_, H, E>)
where
    B: Bytes + Prefix,
    H: Host + Ledger,
    E: Env,
{
    if after(cx, |stash| fast_path(bytes, cx, stash)) == FastPath::Uncommon {
        slow_path(bytes, cx);
    }
}

/// A fast path and, if it hands over a packet, what comes after it.
pub fn after<H: Host, E: Env>(
    cx: &PacketContext<'_, H, E>,
    fast_path: impl FnOnce(&mut dyn FnMut(&ParsedFlowPacket)) -> FastPath,
) -> FastPath {
    let mut known = None;
    let done = fast_path(&mut |packet| known = Some(*packet));
    if let Some(known) = known {
        finish(known, cx);
    }
    done
}

/// The slow path as a whole, for packets that [`fast_path`] does not know: what
/// host code does. The kernel programs take its steps one by one, and hand
/// over from each to the next through a map, for the verifier's sake.
pub fn slow_path<B, H, E>(bytes: &B, cx: &PacketContext<'_, H, E>)
where
    B: Bytes,
    H: Host + Ledger,
    E: Env,
{
    let Some(network) = network(bytes, &cx.meta, cx.link, cx.env) else {
        return;
    };
    if is_datagram(&network) {
        let first = datagram(bytes, &network, cx);
        queries(bytes, first, cx, |query| take_query(query, cx.host, cx.env));
    } else if let Some(packet) = transport(bytes, &cx.meta, &network, cx.env) {
        let first = message(bytes, &packet, cx);
        queries(bytes, first, cx, |query| take_query(query, cx.host, cx.env));
        enter(&packet, cx);
    }
}

/// The steps from the third on, likewise, of a packet that was read.
pub fn enter<H: Host, E: Env>(packet: &Packet, cx: &PacketContext<'_, H, E>) {
    let (fingerprint, found) = find(packet, cx);
    let placed = if found == Lookup::None {
        let way = (cx.meta.ifindex, cx.direction);
        vlan::place(packet, fingerprint, way, cx.host, cx.env)
    } else {
        Placed {
            fingerprint,
            segment: packet.segment,
            is_new_flow: found == Lookup::Anew,
        }
    };
    let packet = Packet {
        segment: placed.segment,
        ..*packet
    };
    if placed.is_new_flow {
        insert_flow(&packet, placed.fingerprint, cx);
    }
    finish(known_as(placed.fingerprint, &packet, &cx.meta), cx);
}

/// The slow path, first step: reads any packet up to its TCP header, or
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

/// What [`find`] has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Lookup {
    /// The flow's entry.
    Known = 0,
    /// The same; the flow starts anew in it.
    Anew = 1,
    /// No entry in the packet's own VLAN; see [`vlan::place`].
    None = 2,
}

/// Third step: looks for the entry of the packet's flow. Returns its fingerprint
/// too.
#[inline(always)]
#[must_use]
pub fn find<H: Host, E: Env>(packet: &Packet, cx: &PacketContext<'_, H, E>) -> (u64, Lookup) {
    let (host, direction) = (cx.host, cx.direction);
    let fingerprint = hash::of_key(host, &packet.key(direction, cx.meta.ifindex));
    let found = match table::find(host, fingerprint) {
        Some(entry) if packet.head.opens() && table::restarts(entry, direction, &packet.head) => {
            Lookup::Anew
        }
        Some(_) => Lookup::Known,
        None => Lookup::None,
    };
    (fingerprint, found)
}

/// Fourth step, where there is none or the flow starts anew: gives it an entry
/// under this fingerprint, or a new start. That there is none to be had is
/// counted.
#[inline(always)]
pub fn insert_flow<H: Host, E: Env>(
    packet: &Packet,
    fingerprint: u64,
    cx: &PacketContext<'_, H, E>,
) {
    let (host, direction, ifindex) = (cx.host, cx.direction, cx.meta.ifindex);
    let key = packet.key(direction, ifindex);
    let vantage = host.config(ifindex).map_or(0, |config| config.vantage);
    let birth = NewFlow {
        key,
        ifindex,
        vantage,
        opened: packet.head.opens(),
    };
    let entry = table::find_or_insert(host, host, cx.env, fingerprint, &birth);
    let sent = vantage == Vantage::Nic as u8 && direction == Direction::FromLocal;
    if let Some(entry) = entry
        && sent
        && cx.env.sent_here(packet.src, packet.sport)
    {
        entry.cold.set_hosts();
    }
}

/// What the last steps need of a packet whose flow ought to have an entry now,
/// under this fingerprint.
#[inline(always)]
#[must_use]
pub fn known_as(fingerprint: u64, packet: &Packet, meta: &Meta) -> ParsedFlowPacket {
    ParsedFlowPacket {
        fingerprint,
        head: packet.head,
        wire: Wire::new(meta.len, meta.segments, packet.head.headers),
        next: 0,
    }
}

/// Fifth step; see [`matcher::prepare`].
#[inline(always)]
pub fn prepare<T: Table, E: Env>(
    known: &ParsedFlowPacket,
    direction: Direction,
    table: &T,
    env: &E,
) -> u32 {
    match at(known, direction, table) {
        Some(at) => matcher::prepare(&at, &known.head, env),
        None => matcher::Next::Done as u32,
    }
}

/// Sixth step, if [`matcher::HANDSHAKE`] is in [`ParsedFlowPacket::next`].
#[inline(always)]
pub fn handshake<T: Table, E: Env>(
    known: &ParsedFlowPacket,
    direction: Direction,
    table: &T,
    env: &E,
) {
    if let Some(at) = at(known, direction, table) {
        matcher::handshake(&at, &known.head, known.next, env);
    }
}

/// Step between, if the method `request` is on.
#[inline(always)]
pub fn request<T: Table, E: Env>(
    known: &ParsedFlowPacket,
    direction: Direction,
    table: &T,
    env: &E,
) {
    if let Some((entry, request)) = table::find_request(table, known.fingerprint) {
        let at = FlowPacket {
            entry,
            fingerprint: known.fingerprint,
            direction,
            wire: known.wire,
        };
        matcher::request(&at, request, &known.head, known.next, env);
    }
}

/// Last step, if the low byte of [`ParsedFlowPacket::next`] is [`TS`].
#[inline(always)]
pub fn by_ts<T: Table, E: Env>(known: &ParsedFlowPacket, direction: Direction, table: &T, env: &E) {
    if let Some(at) = at(known, direction, table) {
        matcher::by_ts(&at, &known.head, known.next, env);
    }
}

/// Last step, if it is [`SEQ`].
#[inline(always)]
pub fn by_seq<T: Table, E: Env>(
    known: &ParsedFlowPacket,
    direction: Direction,
    table: &T,
    env: &E,
) {
    if let Some(at) = at(known, direction, table) {
        matcher::by_seq(&at, &known.head, known.next, env);
    }
}

/// [`matcher::Next::Ts`] as it stands in [`ParsedFlowPacket::next`].
pub const TS: u32 = matcher::Next::Ts as u32;
/// [`matcher::Next::Seq`], likewise.
pub const SEQ: u32 = matcher::Next::Seq as u32;

/// All of the last steps, where nothing has to stand between them.
pub fn finish<H: Host, E: Env>(mut known: ParsedFlowPacket, cx: &PacketContext<'_, H, E>) {
    let (direction, table, env) = (cx.direction, cx.host, cx.env);
    known.next = prepare(&known, direction, table, env);
    if known.next & HANDSHAKE != 0 {
        handshake(&known, direction, table, env);
    }
    if env.methods().has(Method::Request) {
        request(&known, direction, table, env);
    }
    match known.next & 0xff {
        TS => by_ts(&known, direction, table, env),
        SEQ => by_seq(&known, direction, table, env),
        _ => {}
    }
}

#[inline(always)]
fn at<'t, T: Table>(
    known: &ParsedFlowPacket,
    direction: Direction,
    table: &'t T,
) -> Option<FlowPacket<'t>> {
    let entry = table::find(table, known.fingerprint)?;
    Some(FlowPacket {
        entry,
        fingerprint: known.fingerprint,
        direction,
        wire: known.wire,
    })
}
