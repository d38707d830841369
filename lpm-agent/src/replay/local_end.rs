//! Decides which end of a flow is the local one. A hook of the kernel knows it, and a capture does
//! not say.

use ipnet::IpNet;
use lpm_common::{
    bytes::Bytes as _,
    hash::{self, Ends},
    layout::{VlanPair, tunnel::is_inside},
    packet::{Direction, FlowKey, Meta, Wrap, flag},
    parse::{Network, Packet},
    pipeline,
    query::{self, Query, Rest, Role},
    table,
    vlan::Pairs as _,
};

use super::{bytes::Captured, engine::Engine};
use crate::passive::flow::plain_address;

/// The addresses of the local ends.
#[derive(Clone, Debug, Default)]
pub struct LocalEnd {
    ranges: Vec<IpNet>,
}

impl LocalEnd {
    /// Takes the ranges of local addresses. Without ranges see `Self::direction`.
    #[must_use]
    pub fn new(ranges: Vec<IpNet>) -> Self {
        Self { ranges }
    }

    /// The direction of a packet.
    ///
    /// The end in the ranges is local. The ranges may not decide, because there are none, or both
    /// ends or neither is in them. Then the flow's earlier packets decide. Without any, the end
    /// that opens the connection is local. If the opening was not captured, the lower address and
    /// port is local.
    pub(super) fn direction(
        &self,
        engine: &Engine,
        bytes: &Captured<'_>,
        meta: &Meta,
        network: &Network,
    ) -> Direction {
        if let Some(direction) = self.by_range(network.src, network.dst) {
            return direction;
        }
        if pipeline::is_datagram(network) {
            return by_role(bytes, network);
        }
        by_flow(engine, bytes, meta, network)
    }

    /// The direction of a packet that was found in a tunnel, by the same rules.
    pub(super) fn inside(&self, engine: &Engine, packet: &Packet, ifindex: u32) -> Direction {
        self.by_range(packet.src, packet.dst).unwrap_or_else(|| {
            let key = packet.key(Direction::FromLocal, ifindex);
            by_key(engine, &key, packet.head.flags)
        })
    }

    /// The direction by the ranges. None: the ranges do not decide.
    fn by_range(&self, src: [u32; 4], dst: [u32; 4]) -> Option<Direction> {
        if self.ranges.is_empty() {
            return None;
        }
        match (self.holds(src), self.holds(dst)) {
            (true, false) => Some(Direction::FromLocal),
            (false, true) => Some(Direction::ToLocal),
            _ => None,
        }
    }

    fn holds(&self, words: [u32; 4]) -> bool {
        let address = plain_address(words);
        self.ranges.iter().any(|range| range.contains(&address))
    }
}

/// The direction by role: the end that asks is local.
fn by_role(bytes: &Captured<'_>, network: &Network) -> Direction {
    let direction = Direction::FromLocal;
    let asks = |(mut query, mut rest): (Query, Rest)| {
        let read = query::further(bytes, &mut query, &mut rest, direction);
        read.is_ok() && query.head.role == Role::Asks
    };
    if query::datagram(bytes, network, direction, 0, 0).is_ok_and(asks) {
        direction
    } else {
        Direction::ToLocal
    }
}

/// The direction by what the flow's earlier packets decided, or by this first one.
fn by_flow(engine: &Engine, bytes: &Captured<'_>, meta: &Meta, network: &Network) -> Direction {
    let Ok(ports) = bytes.be32(network.l4) else {
        return Direction::FromLocal;
    };
    let [sport, dport] = [ports >> 16, ports & 0xffff].map(|port| u16::try_from(port).unwrap_or(0));
    let key = FlowKey {
        local: network.src,
        remote: network.dst,
        local_port: sport,
        remote_port: dport,
        ifindex: meta.ifindex,
        segment: network.segment,
        wrap: Wrap::default(),
        v6: network.v6,
    };
    let flags = bytes.byte(network.l4 + 13).unwrap_or(0);
    by_key(engine, &key, flags)
}

/// The direction by the flow's key, which is `key` if the sender is the local end. `flags` are the
/// packet's.
fn by_key(engine: &Engine, key: &FlowKey, flags: u8) -> Direction {
    if knows(engine, key) {
        return Direction::FromLocal;
    }
    let reverse = FlowKey {
        local: key.remote,
        remote: key.local,
        local_port: key.remote_port,
        remote_port: key.local_port,
        ..*key
    };
    if knows(engine, &reverse) {
        return Direction::ToLocal;
    }
    let sender = (plain_address(key.local), key.local_port);
    let receiver = (plain_address(key.remote), key.remote_port);
    match flags & (flag::SYN | flag::ACK) {
        flag::SYN => Direction::FromLocal,
        opened if opened & flag::SYN != 0 => Direction::ToLocal,
        _ if sender <= receiver => Direction::FromLocal,
        _ => Direction::ToLocal,
    }
}

/// True if the flow of this key is known, here or in another VLAN: the directions of one flow may
/// have different ones.
fn knows(engine: &Engine, key: &FlowKey) -> bool {
    if table::find(engine, hash::of_key(engine, key)).is_some() {
        return true;
    }
    if is_inside(key.segment) || !engine.is_tagged() && key.segment == 0 {
        return false;
    }
    let untagged = Ends::of_flow(engine, key).within(engine, 0);
    engine.pair(untagged) != VlanPair::NOTHING || table::find(engine, untagged).is_some()
}
