//! Tests of who probes whom: properties of any cluster, and figures of large ones.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const REACH: Reach = Reach {
    full_up_to: 50,
    peers: 16,
};

/// A cluster of nodes in zones.
#[derive(Clone, Debug)]
struct Cluster(Vec<(String, Option<String>)>);

impl Cluster {
    fn new(nodes: usize, zones: usize) -> Self {
        let node = |nth| {
            (
                format!("worker-{nth}"),
                Some(format!("zone-{}", nth % zones)),
            )
        };
        Self((0..nodes).map(node).collect())
    }

    fn nodes(&self) -> Vec<Node<'_>> {
        let nodes = self.0.iter();
        let nodes = nodes.map(|(name, zone)| Node {
            name,
            zone: zone.as_deref(),
        });
        nodes.collect()
    }
}

/// The directed pairs of a cluster, by name.
fn pairs<'a>(nodes: &[Node<'a>], reach: Reach) -> BTreeSet<(&'a str, &'a str)> {
    let of = |own: &Node<'a>| {
        let own = own.name;
        let targets = targets(own, nodes, reach);
        targets
            .into_iter()
            .map(move |index| (own, nodes[index].name))
    };
    nodes.iter().flat_map(of).collect()
}

/// The directed pairs of zones that have a probe, and all that could have one.
fn zone_pairs(nodes: &[Node<'_>], pairs: &BTreeSet<(&str, &str)>) -> (usize, usize) {
    let zones: BTreeMap<_, _> = nodes.iter().map(|node| (node.name, node.zone)).collect();
    let covered: BTreeSet<_> = (pairs.iter())
        .map(|(from, to)| (zones[from], zones[to]))
        .collect();
    let mut sizes: BTreeMap<_, usize> = BTreeMap::new();
    for node in nodes {
        *sizes.entry(node.zone).or_default() += 1;
    }
    let lonely = sizes.values().filter(|size| **size == 1).count();
    (covered.len(), sizes.len() * sizes.len() - lonely)
}

fn at_most<'a>(counts: impl Iterator<Item = &'a str>) -> (usize, usize) {
    let mut by_name: BTreeMap<_, usize> = BTreeMap::new();
    for name in counts {
        *by_name.entry(name).or_default() += 1;
    }
    let least = by_name.values().min().copied().unwrap_or_default();
    (least, by_name.values().max().copied().unwrap_or_default())
}

/// 1,000 nodes in 3 and in 20 zones: what each sends and gets, what is covered, and what changes
/// when a node leaves.
#[test]
fn a_thousand_nodes() {
    for zones in [3, 20] {
        let mut cluster = Cluster::new(1_000, zones);
        let nodes = cluster.nodes();
        let before = pairs(&nodes, REACH);
        let sent = at_most(before.iter().map(|(from, _)| *from));
        let got = at_most(before.iter().map(|(_, to)| *to));
        let (covered, possible) = zone_pairs(&nodes, &before);
        let undirected: BTreeSet<_> = (before.iter())
            .map(|(from, to)| (from.min(to), from.max(to)))
            .collect();
        let undirected = undirected.len();
        let owned: BTreeSet<(String, String)> = (before.iter())
            .map(|(from, to)| ((*from).to_owned(), (*to).to_owned()))
            .collect();
        let (gone, _) = cluster.0.remove(500);
        let nodes = cluster.nodes();
        let after: BTreeSet<(String, String)> = (pairs(&nodes, REACH).into_iter())
            .map(|(from, to)| (from.to_owned(), to.to_owned()))
            .collect();
        let is_its = |(from, to): &&(String, String)| *from == gone || *to == gone;
        let lost = owned.difference(&after).count();
        let its = owned.iter().filter(is_its).count();
        let new = after.difference(&owned).count();
        println!(
            "1000 nodes in {zones} zones: {} directed pairs; a node probes {} to {}, and is probed by \
             {} to {}; {} of 499500 pairs of nodes ({:.1} %), {covered} of {possible} directed pairs \
             of zones; one node leaves: {its} pairs are its own, {} others end, {new} begin",
            owned.len(),
            sent.0,
            sent.1,
            got.0,
            got.1,
            undirected,
            f64::from(u32::try_from(undirected).expect("few")) / 4995.0,
            lost - its,
        );
        assert_eq!(sent, (16, 16), "{zones} zones");
        assert!(got.0 >= 1 && got.1 <= 48, "{got:?}");
        assert_eq!(covered, possible, "{zones} zones");
        // Who was not probed by the node that left has at most the pairs of zones to take over.
        assert!(lost - its <= 2 * zones, "{lost} of which {its}");
        assert!(new <= its + 2 * zones, "{new}");
    }
}

/// A small cluster is a full mesh, whatever its zones.
#[test]
fn a_small_cluster_is_a_full_mesh() {
    for count in [0, 1, 2, 50] {
        let cluster = Cluster::new(count, 3);
        let all = pairs(&cluster.nodes(), REACH);
        assert_eq!(all.len(), count * count.saturating_sub(1));
    }
    let cluster = Cluster::new(51, 3);
    assert_eq!(pairs(&cluster.nodes(), REACH).len(), 51 * 16);
}

/// A list has the same answer on another machine and in another build.
#[test]
fn the_choice_is_stable() {
    let cluster = Cluster::new(60, 4);
    let nodes = cluster.nodes();
    let reach = Reach {
        full_up_to: 10,
        peers: 4,
    };
    let names = |own| {
        let chosen = targets(own, &nodes, reach).into_iter();
        chosen.map(|index| nodes[index].name).collect::<Vec<_>>()
    };
    assert_eq!(names("worker-7"), STABLE);
}

const STABLE: [&str; 4] = ["worker-9", "worker-40", "worker-44", "worker-56"];

prop_compose! {
    fn clusters()(sizes in prop::collection::vec(0_usize..12, 1..8), without in 0_usize..5) -> Cluster {
        let mut all = Vec::new();
        for (zone, size) in sizes.into_iter().enumerate() {
            all.extend((0..size).map(|nth| (format!("n{nth}.{zone}"), Some(format!("z{zone}")))));
        }
        all.extend((0..without).map(|nth| (format!("bare{nth}"), None)));
        Cluster(all)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// No node probes itself or another one twice, all that is asked for is chosen, every pair of
    /// zones is covered, and the order of the list does not matter.
    #[test]
    fn any_cluster_is_covered(cluster in clusters(), peers in 0_usize..6, full_up_to in 0_usize..10) {
        let reach = Reach { full_up_to, peers };
        let nodes = cluster.nodes();
        let all = pairs(&nodes, reach);
        prop_assert!(all.iter().all(|(from, to)| from != to));
        let least = peers.min(nodes.len().saturating_sub(1));
        for node in &nodes {
            prop_assert!(all.iter().filter(|(from, _)| *from == node.name).count() >= least);
        }
        let (covered, possible) = zone_pairs(&nodes, &all);
        prop_assert_eq!(covered, possible);
        let mut turned = nodes.clone();
        turned.reverse();
        prop_assert_eq!(pairs(&turned, reach), all);
    }

    /// A node that is not in the list, or leaves it, costs the others nothing of what they had, but
    /// for one pair of zones each time it was the one that probed or was probed for it.
    #[test]
    fn a_node_that_leaves_changes_little(cluster in clusters(), nth in 0_usize..40) {
        let reach = Reach { full_up_to: 0, peers: 4 };
        let nodes = cluster.nodes();
        prop_assume!(nth < nodes.len());
        let before = pairs(&nodes, reach);
        let mut fewer = nodes.clone();
        let gone = fewer.remove(nth).name;
        let after = pairs(&fewer, reach);
        let its = before.iter().filter(|(from, to)| *from == gone || *to == gone).count();
        let zones = nodes.iter().map(|node| node.zone).collect::<BTreeSet<_>>().len();
        let changed = before.symmetric_difference(&after).count() - its;
        // Each of its places is taken by one other pair; a pair of zones that moves pushes out one
        // pair and lets one in, at its old and at its new node.
        prop_assert!(changed <= its + 8 * zones, "{changed} beside {its} of {zones} zones");
        prop_assert!(!targets("stranger", &nodes, reach).is_empty() || nodes.is_empty());
    }
}
