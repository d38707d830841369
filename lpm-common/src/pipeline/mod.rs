//! A packet's way through the other modules. The fast path takes packets of the
//! common layout whose flow is known. The slow path takes all others, in steps.

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
    query::QueryRecorder,
    table::{self, NewFlow, Table},
    vlan::{self, Placed},
};

/// The settings of interfaces, asked for when a flow appears.
pub trait Interfaces {
    /// The settings of this interface, if it is known.
    fn config(&self, ifindex: u32) -> Option<InterfaceConfig>;
}

/// A packet of a flow that has an entry, as one step passes it to the next.
#[derive(Clone, Copy, Debug, Default)]
pub struct ParsedFlowPacket {
    /// Fingerprint of the flow's key.
    pub fingerprint: u64,
    /// The TCP header.
    pub head: TcpHead,
    /// Size on the wire.
    pub wire: Wire,
    /// The result of [`matcher::prepare`].
    pub next: u32,
}

/// What [`fast_path`] has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FastPath {
    /// It did nothing: the layout is rare, or the flow has no entry; see
    /// [`network`].
    Uncommon = 0,
    /// It measured the packet, or counted it as skipped, or nobody measures it.
    Measured = 1,
    /// It found a [`ParsedFlowPacket`]; [`prepare`] is the next step.
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

/// Ends the fast path with a packet whose flow has an entry.
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

/// Runs the fast path, then the slow path if needed. Host code calls this.
pub fn measure<B, H, E>(bytes: &B, cx: &PacketContext<'_, H, E>)
where
    B: Bytes + Prefix,
    H: Host + QueryRecorder,
    E: Env,
{
    if after(cx, |stash| fast_path(bytes, cx, stash)) == FastPath::Uncommon {
        slow_path(bytes, cx);
    }
}

/// Takes the result of a fast path. If it found a packet's flow, the last steps
/// follow.
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

/// Runs the slow path as a whole, for packets that [`fast_path`] does not know.
/// Host code calls this. The kernel programs run its steps one by one and pass
/// each result on through a map, for the verifier's sake.
pub fn slow_path<B, H, E>(bytes: &B, cx: &PacketContext<'_, H, E>)
where
    B: Bytes,
    H: Host + QueryRecorder,
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

/// Runs the steps from the third on with a packet that was read. Host code
/// calls this.
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

/// First step of the slow path: reads any packet up to its TCP header, or up to
/// that of a protocol for [`datagram`]. None: nothing in the packet can be
/// measured, which is counted.
#[inline(always)]
pub fn network<B: Bytes, E: Env>(bytes: &B, meta: &Meta, link: Link, env: &E) -> Option<Network> {
    counted(parse::network(bytes, link, meta, env.methods()), meta, env)
}

/// Second step: reads the TCP header. None: nothing in the packet can be
/// measured, which is counted.
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

/// What [`find`] finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Lookup {
    /// The flow has an entry.
    Known = 0,
    /// The flow has an entry, and starts anew in it.
    Anew = 1,
    /// The flow has no entry in the packet's own VLAN; see [`vlan::place`].
    None = 2,
}

/// Third step: looks for the flow entry of the packet. Returns its fingerprint,
/// too.
#[inline(always)]
#[must_use]
pub fn find<H: Host, E: Env>(packet: &Packet, cx: &PacketContext<'_, H, E>) -> (u64, Lookup) {
    let (host, direction) = (cx.host, cx.direction);
    let fingerprint = hash::of_key(host, &packet.key(direction, cx.meta.ifindex));
    let found = match table::find(host, fingerprint) {
        Some(entry)
            if packet.head.opens()
                && table::restarts(entry, direction, &packet.head, (host, cx.env)) =>
        {
            Lookup::Anew
        }
        Some(_) => Lookup::Known,
        None => Lookup::None,
    };
    (fingerprint, found)
}

/// Fourth step, if the flow has no entry or starts anew: makes an entry under
/// this fingerprint, or restarts the flow. That there is no entry to be had is
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

/// Makes what the last steps need of a packet whose flow should have an entry
/// now, under this fingerprint.
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

/// Fifth step: runs [`matcher::prepare`].
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

/// Sixth step, if [`matcher::HANDSHAKE`] is in [`ParsedFlowPacket::next`]: runs
/// [`matcher::handshake()`].
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

/// Step between, if the method `request` is on: runs [`matcher::request()`].
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

/// Last step, if the low byte of [`ParsedFlowPacket::next`] is [`SEQ`].
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
/// [`matcher::Next::Seq`] as it stands in [`ParsedFlowPacket::next`].
pub const SEQ: u32 = matcher::Next::Seq as u32;

/// Runs all of the last steps, where they need not be separate programs.
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
