//! What other agents and the API server send: names, pods, and the annotations of pods.

use std::collections::HashSet;

use ipnet::IpNet;
use lpm_agent::{
    identity::{
        kubernetes::{ClusterState, Pod, StateEvent},
        merge::{Change, Origin},
        names_file::Kind,
        peers::hear,
    },
    kube::Event,
};
use serde_json::{Value, json};

/// Any bytes as the stream of another agent, cut into pieces where the first byte says. No name may
/// come of it but a pod's, of an address in that agent's range.
pub fn peers(data: &[u8]) {
    let Some((size, stream)) = data.split_first() else {
        return;
    };
    let pieces = stream.chunks(usize::from(*size) + 1);
    let range = "198.18.2.0/24".parse().expect("a range");
    for change in hear("n2", range, pieces) {
        if let Some(name) = change.name {
            assert!(range.contains(&change.range), "{}", change.range);
            assert_eq!(name.kind, Kind::Pod);
            assert_eq!(name.node.as_deref(), Some("n2"));
        }
    }
}

/// Any JSON as a list of pods that come, change and go.
pub fn pods(data: &[u8]) {
    let Ok(objects) = serde_json::from_slice::<Vec<Value>>(data) else {
        return;
    };
    let pods = objects.into_iter().filter_map(|object| {
        let goes = object.get("gone").is_some();
        Some((goes, serde_json::from_value::<Pod>(object).ok()?))
    });
    let mut cluster = Cluster::new();
    for (goes, pod) in pods.take(64) {
        cluster.take(if goes {
            Event::Delete(pod)
        } else {
            Event::Apply(pod)
        });
    }
    cluster.end();
}

/// Any texts as the annotations of a pod in which tenants name networks: three, with a NUL between.
pub fn annotations(data: &[u8]) {
    const KEYS: [&str; 3] = [
        "l2sm/networks",
        "k8s.v1.cni.cncf.io/network-status",
        "k8s.v1.cni.cncf.io/networks",
    ];
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    let texts = KEYS.into_iter().zip(text.splitn(3, '\0'));
    let annotations: serde_json::Map<String, Value> = texts
        .map(|(key, text)| (key.to_owned(), text.into()))
        .collect();
    let pod = json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "annotations": annotations},
        "spec": {"nodeName": "n1"},
        "status": {"phase": "Running", "podIP": "198.18.1.2"},
    });
    let pod: Pod = serde_json::from_value(pod).expect("a pod");
    let mut cluster = Cluster::new();
    cluster.take(Event::Apply(pod));
    cluster.end();
}

/// The state of a cluster, and the names that hold.
struct Cluster {
    state: ClusterState,
    /// The ranges that pods name.
    named: HashSet<(Origin, IpNet)>,
}

impl Cluster {
    fn new() -> Self {
        let mut cluster = Self {
            state: ClusterState::new(&["team".to_owned()]),
            named: HashSet::new(),
        };
        cluster.take(Event::Init);
        cluster.take(Event::InitDone);
        cluster
    }

    fn take(&mut self, event: Event<Pod>) {
        let mut changes = Vec::new();
        self.state.take(StateEvent::Pod(event), &mut changes);
        for Change {
            origin,
            range,
            name,
        } in changes
        {
            // An address that has lost its pod is an unknown pod's for a while.
            if origin == Origin::Derived {
                continue;
            }
            let key = (origin, range);
            if name.is_some() {
                self.named.insert(key);
            } else {
                self.named.remove(&key);
            }
        }
    }

    /// Takes a list without any pod: no name is left.
    fn end(mut self) {
        self.take(Event::Init);
        self.take(Event::InitDone);
        assert!(self.named.is_empty(), "names outlive their pods");
    }
}
