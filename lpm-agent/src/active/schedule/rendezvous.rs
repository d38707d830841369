//! Which nodes a node probes, such that every node comes to the same answer from the same list.
//!
//! A small cluster is a full mesh. In a larger one each node probes those with the highest random
//! weight (rendezvous hashing: Thaler and Ravishankar, "Using name-based mappings to increase hit
//! rates", IEEE/ACM Transactions on Networking 6(1), 1998). The weight depends on the two names
//! alone, so a node that leaves changes only the lists in which it was. One node of each zone also
//! probes one node of each zone, so no pair of zones is without a probe.

use std::collections::BTreeMap;

use crate::fnv::fnv;

/// A node of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node<'a> {
    /// The node's name. No two nodes have the same.
    pub name: &'a str,
    /// The node's zone. Nodes without one are a zone of their own.
    pub zone: Option<&'a str>,
}

/// How many nodes a node probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Up to so many nodes, each probes all others.
    pub full_up_to: usize,
    /// In a larger cluster each probes so many, and more only where it is the one node of its zone
    /// that probes more zones than that.
    pub peers: usize,
}

/// The nodes that `own` probes, as indices into `nodes`, in rising order. Each direction of a pair
/// counts by itself: that one node probes another says nothing of the way back. The order of the
/// list does not matter.
#[must_use]
pub fn targets(own: &str, nodes: &[Node<'_>], reach: Reach) -> Vec<usize> {
    let others = || (0..nodes.len()).filter(|index| nodes[*index].name != own);
    if nodes.len() <= reach.full_up_to {
        return others().collect();
    }
    let mut chosen = zone_duties(own, nodes);
    let from = hash(own);
    let mut rest: Vec<(u64, &str, usize)> = others()
        .filter(|index| !chosen.contains(index))
        .map(|index| {
            (
                pair(from, hash(nodes[index].name)),
                nodes[index].name,
                index,
            )
        })
        .collect();
    let wanted = reach.peers.saturating_sub(chosen.len());
    if wanted < rest.len() {
        // Those with the highest weights come first.
        rest.select_nth_unstable_by(wanted, |one, other| other.cmp(one));
        rest.truncate(wanted);
    }
    chosen.extend(rest.into_iter().map(|(.., index)| index));
    chosen.sort_unstable();
    chosen
}

/// The nodes that `own` probes because its zone has no other node that would: one for each pair of
/// zones, its own zone with itself included.
fn zone_duties(own: &str, nodes: &[Node<'_>]) -> Vec<usize> {
    let Some(itself) = nodes.iter().find(|node| node.name == own) else {
        return Vec::new();
    };
    let mut zones: BTreeMap<Option<&str>, Vec<usize>> = BTreeMap::new();
    for (index, node) in nodes.iter().enumerate() {
        zones.entry(node.zone).or_default().push(index);
    }
    let here = &zones[&itself.zone];
    let mut duties = Vec::new();
    for (zone, there) in &zones {
        let of_zones = pair(zone_hash(itself.zone), zone_hash(*zone));
        let sender = highest(nodes, here.iter(), of_zones);
        if sender.is_none_or(|sender| nodes[sender].name != own) {
            continue;
        }
        let candidates = there.iter().filter(|index| nodes[**index].name != own);
        duties.extend(highest(nodes, candidates, !of_zones));
    }
    duties
}

/// The node with the highest weight for a seed. None: there is none.
fn highest<'a>(
    nodes: &[Node<'_>],
    of: impl Iterator<Item = &'a usize>,
    seed: u64,
) -> Option<usize> {
    of.copied()
        .max_by_key(|index| (pair(seed, hash(nodes[*index].name)), nodes[*index].name))
}

fn zone_hash(zone: Option<&str>) -> u64 {
    zone.map_or(0, hash)
}

/// A hash of a name in which each bit depends on each byte.
fn hash(name: &str) -> u64 {
    mix(fnv(name))
}

/// A hash of two hashes, in this order.
fn pair(one: u64, other: u64) -> u64 {
    mix(mix(one).wrapping_add(other))
}

/// Mixes the bits: the last bytes of a text change few bits of its FNV hash. The finalizer of
/// `SplitMix64` (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
pub(crate) const fn mix(of: u64) -> u64 {
    let of = (of ^ (of >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let of = (of ^ (of >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    of ^ (of >> 31)
}

#[cfg(test)]
mod tests;
