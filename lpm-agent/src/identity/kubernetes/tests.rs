//! Tests of the cluster state, with hand-made objects as the API server sends them.

mod claims;
mod owners;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{event_loop::everything_unknown, *};
use crate::{
    identity::{
        Name, PrefixMap,
        merge::{Change, Merge, Origin},
    },
    kube::Event,
};

/// A cluster state, and the names that it has given.
struct Cluster {
    state: ClusterState,
    merge: Merge,
    names: PrefixMap,
}

fn read<K: DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).expect("an object")
}

impl Cluster {
    fn new() -> Self {
        Self {
            state: ClusterState::new(&["team".to_owned()]),
            merge: Merge::default(),
            names: PrefixMap::default(),
        }
    }

    fn take(&mut self, event: StateEvent) {
        let mut changes = Vec::new();
        self.state.take(event, &mut changes);
        self.apply(changes);
    }

    fn apply(&mut self, changes: Vec<Change>) {
        for (range, name) in changes
            .into_iter()
            .flat_map(|c| self.merge.apply(c))
            .collect::<Vec<_>>()
        {
            match name {
                Some(name) => self.names.insert(range, name),
                None => drop(self.names.remove(range)),
            }
        }
    }

    fn pod(&mut self, object: Value) {
        self.take(StateEvent::Pod(Event::Apply(read(object))));
    }

    fn no_pod(&mut self, object: Value) {
        self.take(StateEvent::Pod(Event::Delete(read(object))));
    }

    fn list_pods(&mut self, objects: Vec<Value>) {
        self.take(StateEvent::Pod(Event::Init));
        for object in objects {
            self.take(StateEvent::Pod(Event::InitApply(read(object))));
        }
        self.take(StateEvent::Pod(Event::InitDone));
    }

    fn at(&self, address: &str) -> Option<Arc<Name>> {
        let address: IpAddr = address.parse().expect("an address");
        self.names.lookup(address).cloned()
    }

    /// Kind and shortest name of an address's owner.
    fn who(&self, address: &str) -> String {
        let Some(name) = self.at(address) else {
            return "nobody".to_owned();
        };
        let bare = name.workload_type.as_deref() == Some("barepod");
        let words = [
            &name.namespace,
            &name.pod,
            &name.workload.clone().filter(|_| !bare),
            &name.service,
            &name.node,
            &name.network,
        ];
        let words: Vec<&str> = words
            .into_iter()
            .map(|w| w.as_deref().unwrap_or("-"))
            .collect();
        format!("{:?} {}", name.kind, words.join(" ")).to_lowercase()
    }
}

fn pod(name: &str, namespace: &str, addresses: &[&str]) -> Value {
    json!({
        "metadata": {"name": name, "namespace": namespace, "uid": format!("{namespace}/{name}")},
        "spec": {"nodeName": "n1"},
        "status": {
            "phase": "Running",
            "podIP": addresses.first(),
            "podIPs": addresses.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>(),
        },
    })
}

/// An object with a value changed at a path such as `/metadata/labels`.
fn with(mut object: Value, path: &str, value: Value) -> Value {
    let (parent, key) = path.rsplit_once('/').expect("a path");
    object.pointer_mut(parent).expect(parent)[key] = value;
    object
}

fn owned(object: Value, kind: &str, name: &str, uid: &str) -> Value {
    let owner = json!([{
        "apiVersion": "v1", "kind": kind, "name": name, "uid": uid, "controller": true
    }]);
    with(object, "/metadata/ownerReferences", owner)
}

#[test]
fn all_addresses_of_a_pod_are_its_own() {
    let mut cluster = Cluster::new();
    let labels = json!({"team": "café ✓", "app": "x"});
    let web = with(
        pod("web-0", "shop", &["198.18.1.2", "fd00::2"]),
        "/metadata/labels",
        labels,
    );
    cluster.pod(owned(web, "StatefulSet", "web", "s"));
    for address in ["198.18.1.2", "fd00::2"] {
        assert_eq!(cluster.who(address), "pod shop web-0 web - n1 -");
        let labels = &cluster.at(address).expect("a name").labels;
        let wanted: BTreeMap<Arc<str>, Arc<str>> = [("team".into(), "café ✓".into())].into();
        assert_eq!(*labels, wanted, "those that were asked for");
    }
}

#[test]
fn pods_without_an_address_of_their_own_name_none() {
    let mut cluster = Cluster::new();
    cluster.pod(with(
        pod("agent", "lpm", &["198.18.0.1"]),
        "/spec/hostNetwork",
        json!(true),
    ));
    cluster.pod(with(
        pod("new", "shop", &[]),
        "/status",
        json!({"phase": "Pending"}),
    ));
    cluster.pod(with(
        pod("done", "shop", &["198.18.1.3"]),
        "/status/phase",
        json!("Succeeded"),
    ));
    cluster.pod(pod("odd", "shop", &["nowhere"]));
    assert!(cluster.names.is_empty(), "{:?}", cluster.names);
    assert_eq!(cluster.state.count(Watched::Pods), 4);
}

#[test]
fn a_completed_pod_gives_its_address_back() {
    let mut cluster = Cluster::new();
    let job = pod("job-1", "batch", &["198.18.1.4"]);
    cluster.pod(job.clone());
    cluster.pod(with(job, "/status/phase", json!("Failed")));
    assert_eq!(cluster.who("198.18.1.4"), "pod unknown - - - - -");
}

#[test]
fn an_address_is_unknown_from_its_deletion_to_its_next_owner() {
    let mut cluster = Cluster::new();
    let (old, new) = (
        pod("old", "a", &["198.18.1.5"]),
        pod("new", "b", &["198.18.1.5"]),
    );
    cluster.pod(old.clone());
    cluster.no_pod(old);
    assert_eq!(cluster.who("198.18.1.5"), "pod unknown - - - - -");
    assert_eq!(cluster.who("198.18.1.6"), "nobody");
    cluster.pod(new.clone());
    assert_eq!(cluster.who("198.18.1.5"), "pod b new - - n1 -");
    cluster.no_pod(new);
    assert_eq!(cluster.who("198.18.1.5"), "pod unknown - - - - -");
}

#[test]
fn the_old_pods_end_does_not_take_the_new_ones_name() {
    let mut cluster = Cluster::new();
    let (old, new) = (
        pod("old", "a", &["198.18.1.5"]),
        pod("new", "b", &["198.18.1.5"]),
    );
    cluster.pod(old.clone());
    cluster.pod(new.clone());
    assert_eq!(cluster.who("198.18.1.5"), "pod b new - - n1 -");
    cluster.pod(with(old.clone(), "/metadata/labels", json!({"team": "x"})));
    assert_eq!(
        cluster.who("198.18.1.5"),
        "pod b new - - n1 -",
        "a late word of the old one"
    );
    cluster.no_pod(old);
    assert_eq!(cluster.who("198.18.1.5"), "pod b new - - n1 -");
}

#[test]
fn of_two_pods_in_a_list_the_one_that_began_later_has_the_address() {
    let began = |name, at: &str| {
        with(
            pod(name, "a", &["198.18.1.5"]),
            "/status/startTime",
            json!(at),
        )
    };
    let early = || began("early", "2026-01-01T00:00:00Z");
    let late = || began("late", "2026-01-01T00:10:00Z");
    for list in [vec![early(), late()], vec![late(), early()]] {
        let mut cluster = Cluster::new();
        cluster.list_pods(list);
        assert_eq!(cluster.who("198.18.1.5"), "pod a late - - n1 -");
    }
}

#[test]
fn a_new_list_keeps_the_names_until_it_is_complete() {
    let mut cluster = Cluster::new();
    let (stays, goes) = (
        pod("stays", "a", &["198.18.1.7"]),
        pod("goes", "a", &["198.18.1.8"]),
    );
    cluster.list_pods(vec![stays.clone(), goes]);
    assert!(cluster.state.is_synced(Watched::Pods));
    cluster.take(StateEvent::Pod(Event::Init));
    cluster.take(StateEvent::Pod(Event::InitApply(read(stays))));
    assert_eq!(cluster.who("198.18.1.8"), "pod a goes - - n1 -");
    cluster.take(StateEvent::Pod(Event::InitDone));
    assert_eq!(cluster.who("198.18.1.7"), "pod a stays - - n1 -");
    assert_eq!(cluster.who("198.18.1.8"), "pod unknown - - - - -");
}

#[test]
fn a_pod_that_changes_its_address_leaves_the_old_one() {
    let mut cluster = Cluster::new();
    cluster.pod(pod("web", "a", &["198.18.1.1", "198.18.1.2"]));
    cluster.pod(pod("web", "a", &["198.18.1.2", "198.18.1.3"]));
    assert_eq!(cluster.who("198.18.1.1"), "pod unknown - - - - -");
    assert_eq!(cluster.who("198.18.1.2"), "pod a web - - n1 -");
    assert_eq!(cluster.who("198.18.1.3"), "pod a web - - n1 -");
}

fn slice(name: &str, service: &str, addresses: &[&str], headless: bool) -> Value {
    let mut labels = json!({"kubernetes.io/service-name": service});
    if headless {
        labels["service.kubernetes.io/headless"] = json!("");
    }
    let endpoints: Vec<Value> = addresses
        .iter()
        .map(|a| json!({"addresses": [a]}))
        .collect();
    json!({
        "metadata": {"name": name, "namespace": "a", "uid": name, "labels": labels},
        "endpoints": endpoints,
    })
}

#[test]
fn backends_bear_their_services_name() {
    let mut cluster = Cluster::new();
    let take = |cluster: &mut Cluster, slice| {
        cluster.take(StateEvent::EndpointSlice(Event::Apply(read(slice))));
    };
    cluster.pod(pod("db-0", "a", &["198.18.1.1"]));
    take(&mut cluster, slice("s1", "all", &["198.18.1.1"], true));
    assert_eq!(cluster.who("198.18.1.1"), "pod a db-0 - all n1 -");
    take(
        &mut cluster,
        slice("s2", "db", &["198.18.1.1", "198.18.1.2"], false),
    );
    assert_eq!(
        cluster.who("198.18.1.1"),
        "pod a db-0 - db n1 -",
        "not the headless one"
    );
    cluster.pod(pod("db-1", "a", &["198.18.1.2"]));
    assert_eq!(cluster.who("198.18.1.2"), "pod a db-1 - db n1 -");
    take(&mut cluster, slice("s2", "db", &["198.18.1.2"], false));
    assert_eq!(cluster.who("198.18.1.1"), "pod a db-0 - all n1 -");
    // A slice without endpoints has no list at all.
    take(
        &mut cluster,
        with(slice("s2", "db", &[], false), "/endpoints", Value::Null),
    );
    assert_eq!(cluster.who("198.18.1.2"), "pod a db-1 - - n1 -");
    cluster.pod(pod("other", "b", &["198.18.1.9"]));
    take(&mut cluster, slice("s3", "db", &["198.18.1.9"], false));
    assert_eq!(
        cluster.who("198.18.1.9"),
        "pod b other - - n1 -",
        "of another namespace"
    );
}

#[test]
fn services_have_addresses_of_their_own() {
    let mut cluster = Cluster::new();
    let service = |name: &str, namespace: &str, ip: &str, shared: &str| {
        json!({
            "metadata": {"name": name, "namespace": namespace, "uid": name},
            "spec": {"clusterIP": ip, "clusterIPs": [ip, "fd00:96::1"], "externalIPs": [shared]},
            "status": {"loadBalancer": {"ingress": [{"hostname": "x"}, {"ip": "198.19.9.9"}]}},
        })
    };
    let take = |cluster: &mut Cluster, object| {
        cluster.take(StateEvent::Service(Event::Apply(read(object))));
    };
    take(
        &mut cluster,
        service("api", "a", "198.19.0.1", "198.19.8.1"),
    );
    for address in ["198.19.0.1", "fd00:96::1", "198.19.8.1", "198.19.9.9"] {
        assert_eq!(cluster.who(address), "service a - - api - -", "{address}");
    }
    take(
        &mut cluster,
        service("web", "a", "198.19.0.2", "198.19.8.1"),
    );
    assert_eq!(
        cluster.who("198.19.8.1"),
        "service a - - - - -",
        "shared by port"
    );
    take(&mut cluster, service("web", "b", "None", "198.19.8.1"));
    assert_eq!(cluster.who("198.19.8.1"), "service - - - - - -");
    assert_eq!(cluster.who("198.19.0.2"), "nobody");
    let gone = service("web", "b", "None", "198.19.8.1");
    cluster.take(StateEvent::Service(Event::Delete(read(gone))));
    assert_eq!(cluster.who("198.19.8.1"), "service a - - api - -");
}

fn node(name: &str, address: &str, range: &str) -> Value {
    json!({
        "metadata": {"name": name, "uid": name, "annotations": {
            "projectcalico.org/IPv4VXLANTunnelAddr": "198.18.7.77", "other": "x",
        }},
        "spec": {"podCIDR": range, "podCIDRs": [range]},
        "status": {"addresses": [
            {"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name},
        ]},
    })
}

#[test]
fn nodes_and_their_ranges_of_pods() {
    let mut cluster = Cluster::new();
    let mut node = node("n1", "198.18.0.1", "198.18.7.0/24");
    node["metadata"]["labels"] = json!({"topology.kubernetes.io/zone": "west"});
    cluster.take(StateEvent::Node(Event::Apply(read(node.clone()))));
    assert_eq!(cluster.who("198.18.0.1"), "node host - - - n1 -");
    let zone = |cluster: &Cluster| cluster.at("198.18.0.1").expect("a node").zone.clone();
    assert_eq!(zone(&cluster).as_deref(), Some("west"));
    let mut bare = node.clone();
    bare["metadata"]["labels"] = json!({"topology.kubernetes.io/zone": ""});
    cluster.take(StateEvent::Node(Event::Apply(read(bare))));
    assert_eq!(zone(&cluster), None);
    cluster.take(StateEvent::Node(Event::Apply(read(node.clone()))));
    assert_eq!(
        cluster.who("198.18.7.77"),
        "node host - - - n1 -",
        "its tunnel's"
    );
    assert_eq!(
        cluster.who("198.18.7.0"),
        "node host - - - - -",
        "flannel's tunnel"
    );
    assert_eq!(cluster.who("198.18.7.9"), "pod unknown - - - - -");
    cluster.pod(pod("web", "a", &["198.18.7.9"]));
    assert_eq!(cluster.who("198.18.7.9"), "pod a web - - n1 -");
    cluster.no_pod(pod("web", "a", &["198.18.7.9"]));
    assert_eq!(cluster.who("198.18.7.9"), "pod unknown - - - - -");
    cluster.take(StateEvent::Node(Event::Delete(read(node))));
    assert!(cluster.names.is_empty(), "{:?}", cluster.names);
}

#[test]
fn until_all_is_known_nothing_is_outside() {
    let mut merge = Merge::default();
    let state: Vec<_> = everything_unknown(true);
    let deltas: Vec<_> = state.into_iter().flat_map(|c| merge.apply(c)).collect();
    assert_eq!(deltas.len(), 2);
    let internet = Change {
        origin: Origin::External,
        range: "0.0.0.0/0".parse().expect("a range"),
        name: Some(Arc::default()),
    };
    assert_eq!(merge.apply(internet), [], "it might be a pod");
    let known = everything_unknown(false).into_iter();
    assert_eq!(known.flat_map(|c| merge.apply(c)).count(), 2);
}
