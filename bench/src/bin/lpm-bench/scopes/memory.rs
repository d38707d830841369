//! The memory that an agent keeps a cluster in.

use std::{env, net::IpAddr, process::Command, sync::Arc};

use anyhow::{Context as _, Result, bail};
use lpm_agent::{
    identity::{
        Name, PrefixMap,
        kubernetes::{ClusterState, EndpointSlice, Node, Pod, ReplicaSet, Service, StateEvent},
        merge::{Change, Merge, Origin},
    },
    kube::Event,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::objects;
use crate::rss::anonymous;

/// Pods per node.
pub(crate) const PODS: u32 = 30;

/// Replica sets per node: three deployments, and what they keep of older ones.
pub(crate) const SETS: u32 = 12;

/// Nodes whose agents an agent asks: those with which its pods talk.
pub(crate) const PEERS: u32 = 100;

/// MiB by number of nodes and scope.
pub(crate) type Memory = Vec<(u32, [f64; 2])>;

/// Measures each in a process of its own.
pub(crate) fn measure(nodes: &[u32]) -> Result<Memory> {
    let one = |nodes: u32, scope: &str| -> Result<f64> {
        let child = Command::new(env::current_exe()?)
            .args(["scopes", "--alone", scope, "--nodes", &nodes.to_string()])
            .output()
            .context("start this program again")?;
        if !child.status.success() {
            bail!("{nodes} nodes: {}", String::from_utf8_lossy(&child.stderr));
        }
        let text = String::from_utf8(child.stdout)?;
        Ok(text.trim().parse()?)
    };
    let both = |nodes: &u32| Ok((*nodes, [one(*nodes, "cluster")?, one(*nodes, "node")?]));
    nodes.iter().map(both).collect()
}

/// Prints what one takes, MiB.
pub(crate) fn alone(nodes: u32, scope: &str) -> Result<()> {
    let before = anonymous()?;
    let labels = ["team".to_owned()];
    let mut kept = Kept {
        state: if scope == "node" {
            ClusterState::of_a_node(&labels)
        } else {
            ClusterState::new(&labels)
        },
        merge: Merge::default(),
        names: PrefixMap::default(),
    };
    for node in 0..nodes {
        kept.fill(node, scope == "node" && node > 0)?;
    }
    let bytes = anonymous()?.saturating_sub(before);
    println!("{:.1}", mebibytes(bytes));
    // The last thing that is looked at: all is still there.
    drop(kept);
    Ok(())
}

fn mebibytes(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes >> 10).unwrap_or(u32::MAX)) / 1024.0
}

struct Kept {
    state: ClusterState,
    merge: Merge,
    names: PrefixMap,
}

impl Kept {
    /// A node's part of the cluster; of a remote one, what scope `node` knows of it.
    fn fill(&mut self, node: u32, remote: bool) -> Result<()> {
        let with_uid = |mut object: Value, kind: u32, number: u32| {
            object["metadata"]["namespace"] = format!("namespace-{}", node / 10).into();
            object["metadata"]["uid"] =
                format!("{node:08x}-0000-4000-{kind:04x}-{number:012x}").into();
            object
        };
        let mut this = objects::node(node);
        this["status"] = objects::node_status(node, 0);
        self.take(StateEvent::Node(apply::<Node>(&with_uid(this, 1, 0))?));
        let service = objects::service(node);
        self.take(StateEvent::Service(apply::<Service>(&with_uid(
            service, 2, 0,
        ))?));
        if remote {
            if node <= PEERS {
                self.peer(node);
            }
            return Ok(());
        }
        let addresses: Vec<String> = (0..PODS).map(|pod| objects::address(node, pod)).collect();
        let slice = with_uid(objects::slice(node, &addresses), 3, 0);
        self.take(StateEvent::EndpointSlice(apply::<EndpointSlice>(&slice)?));
        for set in 0..SETS {
            let object = with_uid(objects::replica_set(node, set), 4, set);
            self.take(StateEvent::ReplicaSet(apply::<ReplicaSet>(&object)?));
        }
        for (number, address) in (0..PODS).zip(&addresses) {
            let name = format!("workload-{node}-5c9d7f6b8-{number:05}");
            let mut pod = with_uid(objects::pod(&name, node), 5, number);
            pod["spec"]["nodeName"] = objects::node_name(node).into();
            pod["status"] = objects::pod_status(Some(address));
            self.take(StateEvent::Pod(apply::<Pod>(&pod)?));
        }
        Ok(())
    }

    /// The names that another agent tells.
    fn peer(&mut self, node: u32) {
        let text = |text: String| Some(Arc::<str>::from(text));
        let (namespace, workload) = (
            text(format!("namespace-{}", node / 10)),
            text(format!("workload-{node}")),
        );
        let at = text(objects::node_name(node));
        let changes = (0..PODS).map(|number| Change {
            origin: Origin::Peer,
            range: address(node, number).into(),
            name: Some(Arc::new(Name {
                namespace: namespace.clone(),
                workload: workload.clone(),
                service: workload.clone(),
                node: at.clone(),
                pod: text(format!("workload-{node}-5c9d7f6b8-{number:05}")),
                ..Name::default()
            })),
        });
        let changes = changes.collect();
        self.apply(changes);
    }

    fn take(&mut self, event: StateEvent) {
        let mut changes = Vec::new();
        self.state.take(event, &mut changes);
        self.apply(changes);
    }

    fn apply(&mut self, changes: Vec<Change>) {
        for (range, name) in changes.into_iter().filter_map(|c| self.merge.apply(c)) {
            match name {
                Some(name) => self.names.insert(range, name),
                None => drop(self.names.remove(range)),
            }
        }
    }
}

fn address(node: u32, number: u32) -> IpAddr {
    let text = objects::address(node, number);
    text.parse().expect("an address")
}

/// Makes an event of an object as it comes from the API server: as text.
fn apply<K: DeserializeOwned>(object: &Value) -> Result<Event<K>> {
    Ok(Event::Apply(serde_json::from_str(&object.to_string())?))
}
