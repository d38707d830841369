//! Pod addressing: decides whether a pod's address identifies its node, by the nodes' pod ranges.
//!
//! On a flat network (Azure CNI's, for one) it does not, and then there is no agent to ask. It does
//! not either in the networks of L2S-M and Multus: those span nodes, and their addresses are of no
//! node's range.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::state::{ClusterState, Watched};
use crate::identity::Name;

/// Time for which a new node may be without pod range, and its update late.
const PATIENCE: Duration = Duration::from_secs(15);

/// The kind of pod addressing, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PodAddressing {
    /// Each node has its pod ranges. An address of no range is no pod's.
    PerNode,
    /// Not known yet. An address of no range may be anybody's.
    Unknown,
    /// A flat network: an address does not identify its node. The sentence says why.
    Flat(String),
}

/// The observations of one node.
#[derive(Debug)]
pub(super) struct AddressingCheck {
    node: Arc<str>,
    /// True: a pod was seen with an address of its node's range.
    seen: bool,
    /// When this node was first found outside of the cluster, or with pods but no range.
    missing: Option<Instant>,
}

impl AddressingCheck {
    pub(super) fn new(node: Arc<str>) -> Self {
        Self {
            node,
            seen: false,
            missing: None,
        }
    }

    /// True if a pod was seen with an address of its node's range.
    pub(super) fn is_seen(&self) -> bool {
        self.seen
    }

    /// Records that another node's agent has named pods of its range.
    pub(super) fn others_named(&mut self) {
        self.seen = true;
    }

    /// Evaluates a cluster state in which this node's pods are followed, and maybe others'.
    pub(super) fn look(&mut self, state: &ClusterState, now: Instant) -> PodAddressing {
        if !state.is_synced(Watched::Nodes) {
            return PodAddressing::Unknown;
        }
        let node = &self.node;
        let Some(ranges) = state.nodes().ranges_of(node) else {
            let why = format!("the cluster has no node {node}: give this node's name as node_name");
            return self.wait(now, why);
        };
        if ranges.is_empty() {
            let why = format!("node {node} has no pod range (spec.podCIDRs)");
            return self.wait(now, why);
        }
        self.missing = None;
        let within = |address: IpAddr| ranges.iter().any(|range| range.contains(&address));
        let is_here = |name: &Name| name.node.as_ref() == Some(node);
        let here = state.pods().addresses();
        for (name, address) in here.filter(|(name, _)| is_here(name)) {
            if !within(address) {
                let namespace = name.namespace.as_deref().unwrap_or_default();
                let pod = name.pod.as_deref().unwrap_or_default();
                return PodAddressing::Flat(format!(
                    "pod {namespace}/{pod} has the address {address}, which is outside the pod \
                     ranges of its node {node} (spec.podCIDRs)"
                ));
            }
            self.seen = true;
        }
        let mut outside = state.pods().outside();
        if let Some((name, address, network)) = outside.find(|(name, ..)| is_here(name)) {
            let namespace = name.namespace.as_deref().unwrap_or_default();
            let pod = name.pod.as_deref().unwrap_or_default();
            return PodAddressing::Flat(format!(
                "pod {namespace}/{pod} has the address {address} in the network {network}, and only \
                 the API server knows the other pods of that network"
            ));
        }
        let late = |since: Instant| now.saturating_duration_since(since) >= PATIENCE;
        let bare = state.nodes().bare().any(|(_, since)| late(since));
        if self.seen && !bare {
            PodAddressing::PerNode
        } else {
            PodAddressing::Unknown
        }
    }

    fn wait(&mut self, now: Instant, why: String) -> PodAddressing {
        let since = *self.missing.get_or_insert(now);
        if now.saturating_duration_since(since) < PATIENCE {
            PodAddressing::Unknown
        } else {
            PodAddressing::Flat(why)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::state::StateEvent, *};
    use crate::kube::Event;

    fn node(state: &mut ClusterState, name: &str, ranges: &[&str]) {
        let object = json!({"metadata": {"name": name, "uid": name}, "spec": {"podCIDRs": ranges}});
        let node = serde_json::from_value(object).expect("a node");
        state.take(StateEvent::Node(Event::Apply(node)), &mut Vec::new());
    }

    fn pod(state: &mut ClusterState, addresses: &[&str]) {
        let ips: Vec<Value> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
        let object = json!({"metadata": {"name": "web", "namespace": "shop", "uid": "web"},
            "spec": {"nodeName": "n1"}, "status": {"phase": "Running", "podIPs": ips}});
        let pod = serde_json::from_value(object).expect("a pod");
        state.take(StateEvent::Pod(Event::Apply(pod)), &mut Vec::new());
    }

    fn state() -> ClusterState {
        let mut state = ClusterState::of_a_node(&[]);
        state.take(StateEvent::Node(Event::Init), &mut Vec::new());
        state.take(StateEvent::Node(Event::InitDone), &mut Vec::new());
        state
    }

    #[test]
    fn a_pod_within_its_nodes_range_proves_it() {
        let (mut state, mut addressing, now) =
            (state(), AddressingCheck::new("n1".into()), Instant::now());
        node(&mut state, "n1", &["198.18.1.0/24", "fd00:1::/64"]);
        assert_eq!(addressing.look(&state, now), PodAddressing::Unknown);
        pod(&mut state, &["198.18.1.2", "fd00:1::2"]);
        assert_eq!(addressing.look(&state, now), PodAddressing::PerNode);
        // A node without range may have pods anywhere, once it is not new any more.
        node(&mut state, "n2", &[]);
        assert_eq!(addressing.look(&state, now), PodAddressing::PerNode);
        let later = now + 2 * PATIENCE;
        assert_eq!(addressing.look(&state, later), PodAddressing::Unknown);
        node(&mut state, "n2", &["198.18.2.0/24"]);
        assert_eq!(addressing.look(&state, later), PodAddressing::PerNode);
        pod(&mut state, &["198.18.1.2", "fd00:2::2"]);
        let PodAddressing::Flat(why) = addressing.look(&state, now) else {
            panic!("one of its addresses is of no range");
        };
        assert!(
            why.contains("fd00:2::2") && why.contains("shop/web"),
            "{why}"
        );
    }

    #[test]
    fn a_pod_in_an_overlay_makes_it_flat() {
        let (mut state, mut addressing, now) =
            (state(), AddressingCheck::new("n1".into()), Instant::now());
        node(&mut state, "n1", &["198.18.1.0/24"]);
        pod(&mut state, &["198.18.1.2"]);
        assert_eq!(addressing.look(&state, now), PodAddressing::PerNode);
        let networks = r#"[{"name": "blue", "ips": ["198.19.5.1/24"]}]"#;
        let object = json!({"metadata": {"name": "meshed", "namespace": "shop", "uid": "m",
            "annotations": {"l2sm/networks": networks}}, "spec": {"nodeName": "n1"},
            "status": {"phase": "Running", "podIP": "198.18.1.3"}});
        let object = serde_json::from_value(object).expect("a pod");
        state.take(StateEvent::Pod(Event::Apply(object)), &mut Vec::new());
        let PodAddressing::Flat(why) = addressing.look(&state, now) else {
            panic!("the other pods of the network are anywhere");
        };
        for word in ["shop/meshed", "198.19.5.1", "blue"] {
            assert!(why.contains(word), "{why}");
        }
    }

    #[test]
    fn a_node_that_stays_without_range_or_unknown_is_flat() {
        for known in [true, false] {
            let (mut state, mut addressing, now) =
                (state(), AddressingCheck::new("n1".into()), Instant::now());
            if known {
                node(&mut state, "n1", &[]);
            }
            assert_eq!(
                addressing.look(&state, now),
                PodAddressing::Unknown,
                "it may be new"
            );
            let PodAddressing::Flat(why) = addressing.look(&state, now + PATIENCE) else {
                panic!("it has no range");
            };
            assert_eq!(why.contains("spec.podCIDRs"), known, "{why}");
        }
    }
}
