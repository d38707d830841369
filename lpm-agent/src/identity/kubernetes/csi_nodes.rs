//! Detects nodes that come and go, by `CSINode` objects, where nodes are not watched.
//!
//! Each kubelet writes its node object every few minutes. With thousands of nodes that is too much
//! to send to as many agents. `CSINode` objects come and go with nodes, and hardly change in
//! between.

use std::collections::HashMap;

use super::nodes::Nodes;

/// State of the `CSINode` objects.
#[derive(Debug, Default)]
pub(super) struct CsiNodes {
    /// Names of nodes by the objects' ids.
    known: HashMap<u128, String>,
    /// Names of nodes to be requested.
    wanted: Vec<String>,
}

impl CsiNodes {
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn uids(&self) -> impl Iterator<Item = u128> {
        self.known.keys().copied()
    }

    /// Records that a node of this name exists. Before the nodes are `listed`, it need not be
    /// requested.
    pub(super) fn come(&mut self, uid: u128, name: String, listed: bool, nodes: &Nodes) {
        let new = self.known.insert(uid, name.clone()).is_none();
        if new && listed && nodes.uid(&name).is_none() {
            self.wanted.push(name);
        }
    }

    /// Records that a node may have gone.
    pub(super) fn go(&mut self, uid: u128) {
        self.wanted.extend(self.known.remove(&uid));
    }

    /// Ends the listing of nodes: requests the nodes that came meanwhile, and those that are not
    /// complete yet.
    pub(super) fn listed(&mut self, nodes: &Nodes) {
        let names = nodes.names();
        let missing = self
            .known
            .values()
            .filter(|name| !names.contains(name.as_str()));
        self.wanted.extend(missing.cloned());
        self.wanted
            .extend(nodes.bare().map(|(name, _)| name.to_owned()));
    }

    /// Takes the names of the nodes to be requested now.
    pub(super) fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.wanted)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{
        objects::{CSINode, Node},
        state::{ClusterState, StateEvent},
    };
    use crate::kube::Event;

    fn csi(name: &str) -> CSINode {
        serde_json::from_value(json!({"metadata": {"name": name, "uid": name}})).expect("one")
    }

    fn node(name: &str, uid: &str, range: &str) -> Node {
        let object = json!({"metadata": {"name": name, "uid": uid},
            "spec": {"podCIDRs": [range]}, "status": {"addresses": [
                {"type": "InternalIP", "address": "198.19.0.1"}]}});
        serde_json::from_value(object).expect("a node")
    }

    #[test]
    fn a_node_is_asked_for_when_it_comes_and_when_it_goes() {
        let mut state = ClusterState::of_a_node(&[]);
        let mut take = |events: Vec<StateEvent>| {
            for event in events {
                state.take(event, &mut Vec::new());
            }
            let mut wanted = state.take_nodes();
            wanted.sort();
            let home = state.nodes().home([198, 18, 1, 7].into());
            (wanted, home.map(|home| home.node.to_string()))
        };
        let (n1, n2) = (
            node("n1", "a", "198.18.1.0/24"),
            node("n2", "b", "198.18.2.0/24"),
        );
        let is_n1 = || Some("n1".to_owned());
        let first = take(vec![
            StateEvent::CsiNode(Event::Init),
            StateEvent::CsiNode(Event::InitApply(csi("n1"))),
            StateEvent::CsiNode(Event::InitApply(csi("late"))),
            StateEvent::CsiNode(Event::InitDone),
        ]);
        assert_eq!(first, (vec![], None), "the nodes are still listed");
        let listed = take(vec![
            StateEvent::Node(Event::Init),
            StateEvent::Node(Event::InitApply(n1)),
            StateEvent::Node(Event::InitApply(n2)),
            StateEvent::Node(Event::InitDone),
        ]);
        assert_eq!(listed, (vec!["late".to_owned()], is_n1()));
        let come = take(vec![
            StateEvent::CsiNode(Event::Apply(csi("n1"))),
            StateEvent::CsiNode(Event::Apply(csi("n3"))),
        ]);
        assert_eq!(come, (vec!["n3".to_owned()], is_n1()));
        let gone = take(vec![StateEvent::CsiNode(Event::Delete(csi("n1")))]);
        assert_eq!(
            gone,
            (vec!["n1".to_owned()], is_n1()),
            "it is asked whether it is"
        );
        // Another node of that name comes; then there is none.
        let other = node("n1", "c", "198.18.7.0/24");
        let again = take(vec![StateEvent::Node(Event::Apply(other))]);
        assert_eq!(again, (vec![], None), "the range went with the first");
        let n4 = node("n4", "d", "198.18.1.0/24");
        assert_eq!(
            take(vec![StateEvent::Node(Event::Apply(n4))]).1,
            Some("n4".to_owned())
        );
        let none = take(vec![StateEvent::NoNode("n4".to_owned())]);
        assert_eq!(none, (vec![], None));
    }

    #[test]
    fn a_range_of_two_nodes_is_nobodys() {
        let mut state = ClusterState::of_a_node(&[]);
        let mut home = |node| {
            state.take(StateEvent::Node(Event::Apply(node)), &mut Vec::new());
            let home = state.nodes().home([198, 18, 1, 7].into());
            home.map(|home| home.node.to_string())
        };
        assert_eq!(
            home(node("n1", "a", "198.18.1.0/24")).as_deref(),
            Some("n1")
        );
        assert_eq!(home(node("n2", "b", "198.18.1.0/24")), None);
        assert_eq!(
            home(node("n2", "b", "198.18.1.0/25")).as_deref(),
            Some("n2"),
            "it is longer"
        );
    }
}
