//! Flows whose directions bear different VLAN ids, or one of them none. A
//! routed or mirrored port makes them, or a network card that takes the tags
//! off what it received.
//!
//! A flow's fingerprint holds its VLAN, so that networks that reuse addresses
//! never mix. A packet whose flow has no entry in its own VLAN looks for one in
//! the VLAN where the same ends were seen, by map `VLAN_PAIRS`. It joins an
//! entry that has shown only the other direction, if it answers what was seen
//! there.
//!
//! The entry then moves to a fingerprint that no VLAN has ([`renamed`]). So
//! each later packet of the flow passes here, too, and the fast path stays as
//! it is. Any packet that shows a VLAN to carry both directions after all is
//! seen here. It ends the joining: the entry is given up, and each VLAN is a
//! flow of its own from then on.
//!
//! Nothing is looked for until the first tag was seen.

pub mod query;
#[cfg(test)]
mod tests;

use core::sync::atomic::Ordering::Relaxed;

use crate::{
    counter::Counter,
    env::{Claims, Env},
    hash::{Ends, Seeds},
    layout::{FlowEntry, UNSEEN, VlanPair, tunnel},
    matcher::state,
    packet::{Direction, TcpHead, flag},
    parse::Packet,
    table::{self, DATA_ON_SYN, Table},
};

/// The VLANs in which the same ends were seen.
pub trait Pairs {
    /// What is known of the ends whose fingerprint without a tag is `key`.
    fn pair(&self, key: u64) -> VlanPair;

    /// Stores what is known of the ends. The map drops the least recently used
    /// element when it is full.
    fn set_pair(&self, key: u64, pair: VlanPair);

    /// Whether a VLAN tag was ever seen.
    fn is_tagged(&self) -> bool;

    /// Notes that a VLAN tag was seen.
    fn tag_seen(&self);

    /// Notes that this interface shows ends that may belong together, in more
    /// than one way.
    fn doubtful(&self, ifindex: u32);
}

/// Where a packet's flow has its entry, or is to get it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Fingerprint of the entry.
    pub fingerprint: u64,
    /// VLAN ids that the entry is shown with.
    pub segment: u32,
    /// Whether the flow needs an entry, or starts anew.
    pub is_new_flow: bool,
}

/// The fingerprint of a joined flow whose entry stood under `fingerprint`. It
/// is in the same set and way (see [`table::find`]), and no VLAN has it.
#[inline(always)]
#[must_use]
pub const fn renamed(fingerprint: u64) -> u64 {
    const OTHER: u64 = 0x5555_5554;
    if fingerprint == OTHER {
        return fingerprint;
    }
    fingerprint ^ OTHER
}

/// Whether other VLANs have to be looked at. Notes that a tag was seen.
#[inline(always)]
fn is_worth_it<T: Pairs>(vlan: u32, table: &T) -> bool {
    let tagged = table.is_tagged();
    if vlan != 0 && !tagged {
        table.tag_seen();
    }
    vlan != 0 || tagged
}

/// Places a packet whose flow has no entry under `own`, the fingerprint of its
/// own VLAN.
#[inline(always)]
pub fn place<H, E>(
    packet: &Packet,
    own: u64,
    (ifindex, direction): (u32, Direction),
    host: &H,
    env: &E,
) -> Placed
where
    H: Seeds + Table + Claims + Pairs,
    E: Env,
{
    let here = Placed {
        fingerprint: own,
        segment: packet.segment,
        is_new_flow: true,
    };
    // Inside tunnels VLAN ids tell flows apart as they are.
    if tunnel::is_inside(packet.segment) || !is_worth_it(packet.segment, host) {
        return here;
    }
    let ends = Ends::of_flow(host, &packet.key(direction, ifindex));
    let key = ends.within(host, 0);
    let mut before = host.pair(key);
    if before == VlanPair::NOTHING {
        if packet.segment == 0 {
            return here;
        }
        before = untagged(table::find(host, key));
    }
    let look = Look {
        ends,
        own,
        vlan: packet.segment,
        direction,
        head: &packet.head,
        host,
        env,
    };
    let decided = match before.home() {
        Some(home) => look.of_joined(before, home),
        None => look.of_single(before),
    };
    if decided.pair != before {
        host.set_pair(key, decided.pair);
    }
    if decided.doubt {
        env.count(Counter::VlanFlowAmbiguous, 1);
        host.doubtful(ifindex);
    }
    if decided.to == 0 {
        return decided.placed;
    }
    let ways = (decided.from, decided.to);
    let moved = table::rename(host, host, env, ways, direction);
    if moved {
        env.count(Counter::VlanFlowJoined, 1);
    } else if decided.from != 0 {
        // Another CPU was faster: this packet is not measured.
        host.set_pair(key, before);
        return Placed {
            is_new_flow: false,
            ..here
        };
    }
    decided.placed
}

/// What an entry without a tag tells. The map keeps no element for such a flow.
#[inline(always)]
fn untagged(entry: Option<&FlowEntry>) -> VlanPair {
    let mut pair = VlanPair::NOTHING;
    if let Some(entry) = entry {
        for direction in [Direction::FromLocal, Direction::ToLocal] {
            if !table::is_unseen(entry, direction) {
                pair = pair.with(direction, 0);
            }
        }
    }
    pair
}

/// What is to be done with a packet, and stored about its ends.
#[derive(Clone, Copy)]
struct Decided {
    placed: Placed,
    /// What is known of the ends from now on.
    pair: VlanPair,
    /// Whether to count that the VLANs that belong together are unknown.
    doubt: bool,
    /// The fingerprints for [`table::rename`], if `to` is not 0.
    from: u64,
    to: u64,
}

/// The search for the entry of a packet that has none in its own VLAN.
struct Look<'a, H, E> {
    ends: Ends,
    own: u64,
    vlan: u32,
    direction: Direction,
    head: &'a TcpHead,
    host: &'a H,
    env: &'a E,
}

impl<'a, H: Seeds + Table, E: Env> Look<'a, H, E> {
    /// Decides for a flow in this VLAN alone; the others are not touched.
    #[inline(always)]
    fn here(&self, pair: VlanPair) -> Decided {
        Decided {
            placed: Placed {
                fingerprint: self.own,
                segment: self.vlan,
                is_new_flow: true,
            },
            pair,
            doubt: false,
            from: 0,
            to: 0,
        }
    }

    /// What is known of the ends if this packet alone counts.
    #[inline(always)]
    fn first(&self) -> VlanPair {
        VlanPair::of(self.direction, self.vlan)
    }

    #[inline(always)]
    fn entry_in(&self, vlan: u32) -> Option<&'a FlowEntry> {
        if vlan == UNSEEN {
            return None;
        }
        table::find(self.host, self.ends.within(self.host, vlan))
    }

    /// Whether the entry's flow is over: this packet starts a new one, or there
    /// is no entry.
    #[inline(always)]
    fn is_over(&self, entry: Option<&FlowEntry>) -> bool {
        match entry {
            Some(entry) => {
                let around = (self.host, self.env);
                self.head.opens() && table::restarts(entry, self.direction, self.head, around)
            }
            None => true,
        }
    }

    /// The fingerprint of the flow whose directions are joined under this VLAN.
    #[inline(always)]
    fn renamed(&self, home: u32) -> u64 {
        renamed(self.ends.within(self.host, home))
    }

    /// Decides where the directions are joined.
    #[inline(always)]
    fn of_joined(&self, pair: VlanPair, home: Direction) -> Decided {
        let segment = pair.vlan(home);
        let fingerprint = self.renamed(segment);
        let is_new_flow = self.is_over(table::find(self.host, fingerprint));
        if pair.vlan(self.direction) == self.vlan {
            // It is shown with the VLAN that it had before they were joined.
            let placed = Placed {
                fingerprint,
                segment,
                is_new_flow,
            };
            return Decided {
                placed,
                ..self.here(pair)
            };
        }
        // One direction is in two VLANs. Which of them belongs to the other
        // direction, if any does, can no longer be told.
        let pair = if is_new_flow {
            self.first()
        } else {
            self.apart(pair)
        };
        Decided {
            doubt: !is_new_flow,
            to: fingerprint,
            ..self.here(pair)
        }
    }

    #[inline(always)]
    fn apart(&self, pair: VlanPair) -> VlanPair {
        pair.with(self.direction, self.vlan).apart()
    }

    /// Decides where the directions are not joined.
    #[inline(always)]
    fn of_single(&self, pair: VlanPair) -> Decided {
        let own = pair.vlan(self.direction);
        let elsewhere = pair.vlan(self.direction.reverse());
        if own == self.vlan || (own == UNSEEN && elsewhere == self.vlan) {
            // The flow had an entry, and lost it.
            return self.here(if self.head.opens() {
                self.first()
            } else {
                pair
            });
        }
        let other = self.entry_in(elsewhere);
        let lone = other.filter(|other| table::is_unseen(other, self.direction));
        if own != UNSEEN {
            if self.is_over(self.entry_in(own)) {
                return self.here(self.first());
            }
        } else if other.is_none() {
            return self.here(self.first());
        } else if let Some(entry) = lone
            && !pair.is_apart()
            && answers(entry, self.direction, self.head)
        {
            return self.join(pair, elsewhere);
        }
        Decided {
            // A flow that shows both directions in its VLAN misses nothing.
            doubt: lone.is_some(),
            ..self.here(self.apart(pair))
        }
    }

    /// Decides where this packet's direction is in its own VLAN, and the other
    /// direction in the VLAN `elsewhere`.
    #[inline(always)]
    fn join(&self, pair: VlanPair, elsewhere: u32) -> Decided {
        let from = self.ends.within(self.host, elsewhere);
        let pair = pair.with(self.direction, self.vlan);
        let placed = Placed {
            fingerprint: renamed(from),
            segment: elsewhere,
            is_new_flow: false,
        };
        Decided {
            placed,
            from,
            to: renamed(from),
            ..self.here(pair.joined(self.direction.reverse()))
        }
    }
}

/// How far an acknowledgment may be behind what was seen and still be believed.
/// No window is larger in practice.
const BEHIND: u32 = 1 << 24;
/// How far an acknowledgment may be ahead of what was seen: the data may have
/// passed unseen.
const AHEAD: u32 = 1 << 16;
/// How far an echo of a timestamp may be behind what was seen, in ticks of any
/// length. [`TICKS_AHEAD`] is how far it may be ahead.
const TICKS_BEHIND: u32 = 1 << 28;
const TICKS_AHEAD: u32 = 1 << 20;

/// Whether a packet can answer what an entry has shown of the other direction.
/// If not, it belongs to another flow with the same addresses and ports.
#[inline(always)]
fn answers(entry: &FlowEntry, direction: Direction, head: &TcpHead) -> bool {
    if !head.has(flag::ACK) {
        return false;
    }
    let seen = &entry.hot[direction.reverse().index()];
    let state = seen.state.load(Relaxed);
    if state & state::HAS_SEQ != 0 {
        let behind = seen.seq_end.load(Relaxed).wrapping_sub(head.ack);
        if head.has(flag::SYN) {
            return behind <= DATA_ON_SYN;
        }
        if behind.wrapping_add(AHEAD) > BEHIND + AHEAD {
            return false;
        }
    }
    if head.has_timestamp && state & (state::HAS_TSVAL | state::SEQ) == state::HAS_TSVAL {
        let behind = seen.tsval.load(Relaxed).wrapping_sub(head.tsecr);
        return behind.wrapping_add(TICKS_AHEAD) <= TICKS_BEHIND + TICKS_AHEAD;
    }
    true
}
