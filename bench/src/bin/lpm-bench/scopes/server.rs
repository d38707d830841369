//! What an agent costs a real API server: what it is sent at its start, and with each change.

use std::{
    net::IpAddr,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lpm_agent::identity::{
    kubernetes::{Kubernetes, OfNode, Settings, Watched},
    peers::NamePublisher,
    status::Status,
};
use lpm_testbed::kubernetes::ApiServer;
use serde_json::json;

use super::{
    meter::{self, Reading, between},
    objects,
};

/// What there is in the measured cluster.
pub(crate) const NODES: u32 = 20;
/// Pods per node in it.
pub(crate) const PODS: u32 = 10;
/// Replica sets per service in it: a deployment keeps old ones.
pub(crate) const SETS: u32 = 4;

/// Pods that are replaced, and nodes that report, to measure one.
const CHANGES: u32 = 20;

const COLLECTION: &str = "/api/v1/namespaces/default/pods";

/// What was sent for what, with an agent of one scope.
#[derive(Debug)]
pub(crate) struct Cost {
    /// For all lists at its start, and the events that came meanwhile.
    pub(crate) start: Reading,
    /// For one pod replaced on its own node.
    pub(crate) pod_here: Reading,
    /// For one pod replaced on another node.
    pub(crate) pod_there: Reading,
    /// For one node's report.
    pub(crate) node: Reading,
}

/// A running agent, without a kernel.
pub(crate) struct Agent {
    _kubernetes: Kubernetes,
    pub(crate) publisher: Arc<NamePublisher>,
}

impl Agent {
    /// Starts one; returns when it knows all that it follows.
    pub(crate) fn start(api: &ApiServer, narrow: bool) -> Result<Self> {
        let (status, publisher) = (Arc::<Status>::default(), Arc::<NamePublisher>::default());
        let of_node = narrow.then(|| OfNode {
            node: objects::node_name(0).into(),
            port: 9477,
            publisher: Arc::clone(&publisher),
            addresses: Arc::new(Vec::<IpAddr>::new),
        });
        let settings = Settings {
            kubeconfig: Some(api.kubeconfig()),
            labels: vec!["team".to_owned()],
            of_node,
            ..Settings::default()
        };
        let told = Arc::new((Mutex::new(()), Condvar::new()));
        let tells = Arc::clone(&told);
        let kubernetes = Kubernetes::start(settings, Arc::clone(&status), move |_| {
            tells.1.notify_all();
            true
        })?;
        let followed = || {
            let kinds = status.kinds();
            let wanted = if narrow { 4 } else { Watched::ALL.len() };
            kinds.len() == wanted && kinds.values().all(|kind| kind.synced)
        };
        for _ in 0..600 {
            if followed() {
                return Ok(Self {
                    _kubernetes: kubernetes,
                    publisher,
                });
            }
            let held = told.0.lock().expect("not poisoned");
            drop(told.1.wait_timeout(held, Duration::from_millis(100)));
        }
        anyhow::bail!("the agent does not know its cluster after a minute")
    }
}

/// Fills the cluster.
pub(crate) fn fill(api: &ApiServer) -> Result<()> {
    for node in 0..NODES {
        api.create("/api/v1/nodes", &objects::node(node))?;
        report(api, node, 0)?;
        api.create("/apis/storage.k8s.io/v1/csinodes", &objects::csi_node(node))?;
        let mut addresses = Vec::new();
        for pod in 0..PODS {
            addresses.push(objects::address(node, pod));
            begin_pod(
                api,
                &pod_name(node, pod),
                node,
                &objects::address(node, pod),
            )?;
        }
        let namespaced = |group: &str, plural: &str| format!("{group}/namespaces/default/{plural}");
        api.create(&namespaced("/api/v1", "services"), &objects::service(node))?;
        let slices = namespaced("/apis/discovery.k8s.io/v1", "endpointslices");
        api.create(&slices, &objects::slice(node, &addresses))?;
        for revision in 0..SETS {
            let sets = namespaced("/apis/apps/v1", "replicasets");
            api.create(&sets, &objects::replica_set(node, revision))?;
        }
    }
    Ok(())
}

/// Starts an agent and lets things happen.
pub(crate) fn measure(api: &ApiServer, narrow: Option<bool>) -> Result<Cost> {
    let before = meter::settled(api)?;
    let agent = narrow.map(|narrow| Agent::start(api, narrow)).transpose()?;
    let started = meter::settled(api)?;
    let step = |what: &dyn Fn() -> Result<()>| {
        let from = meter::settled(api)?;
        what()?;
        let to = meter::settled(api)?;
        let mut sent = between(&from, &to);
        for sent in sent.values_mut() {
            sent.events /= f64::from(CHANGES);
            sent.event_bytes /= f64::from(CHANGES);
        }
        Ok::<Reading, anyhow::Error>(sent)
    };
    let here = step(&|| (0..CHANGES).try_for_each(|n| replace_pod(api, 0, n % PODS)))?;
    let there = step(&|| (0..CHANGES).try_for_each(|n| replace_pod(api, 7, n % PODS)))?;
    let beat = if narrow.is_none() {
        60
    } else {
        u32::from(narrow == Some(true)) * 60 + 120
    };
    let node = step(&|| (0..CHANGES).try_for_each(|n| report(api, n % NODES, beat + n)))?;
    drop(agent);
    Ok(Cost {
        start: between(&before, &started),
        pod_here: here,
        pod_there: there,
        node,
    })
}

fn pod_name(node: u32, number: u32) -> String {
    format!("workload-{node}-5c9d7f6b8-{number:05}")
}

/// A kubelet's report.
fn report(api: &ApiServer, node: u32, beat: u32) -> Result<()> {
    let path = format!("/api/v1/nodes/{}", objects::node_name(node));
    api.patch_status(&path, &objects::node_status(node, beat))?;
    Ok(())
}

/// The life of a pod as its objects have it: made, given a node, prepared, running.
fn begin_pod(api: &ApiServer, name: &str, node: u32, address: &str) -> Result<()> {
    api.create(COLLECTION, &objects::pod(name, node))?;
    let target = json!({"apiVersion": "v1", "kind": "Node", "name": objects::node_name(node)});
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target});
    api.create(&format!("{COLLECTION}/{name}/binding"), &binding)?;
    let path = format!("{COLLECTION}/{name}");
    api.patch_status(&path, &objects::pod_status(None))?;
    api.patch_status(&path, &objects::pod_status(Some(address)))?;
    Ok(())
}

/// A pod ends and its successor begins, with what controllers write meanwhile: the slice three
/// times (terminating, gone, there again), the replica set three times.
fn replace_pod(api: &ApiServer, node: u32, number: u32) -> Result<()> {
    let (name, address) = (pod_name(node, number), objects::address(node, number));
    let path = format!("{COLLECTION}/{name}");
    let grace = format!("{path}?gracePeriodSeconds=30");
    let marked = api.request("DELETE", &grace, None)?;
    ensure!(marked.status < 300, "{path}: {:?}", marked.body);
    let slice =
        format!("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/workload-{node}-x");
    let slice = |addresses: &[String]| {
        let endpoints = objects::slice(node, addresses)["endpoints"].clone();
        api.patch(&slice, &json!({ "endpoints": endpoints }))
    };
    let set = format!("/apis/apps/v1/namespaces/default/replicasets/workload-{node}-0");
    let replicas =
        |count: u32| api.patch_status(&set, &json!({"replicas": count, "observedGeneration": 1}));
    let others: Vec<String> = (0..PODS).map(|pod| objects::address(node, pod)).collect();
    let others: Vec<String> = others
        .into_iter()
        .filter(|other| *other != address)
        .collect();
    slice(&[&others[..], &[format!("{address}1")]].concat())?;
    api.delete(&path)?;
    slice(&others)?;
    replicas(PODS - 1)?;
    begin_pod(api, &name, node, &address)?;
    replicas(PODS + 1)?;
    slice(&[&others[..], std::slice::from_ref(&address)].concat())?;
    replicas(PODS)?;
    Ok(())
}

/// Starts the API server, or says how to get it.
pub(crate) fn api() -> Result<ApiServer> {
    ApiServer::start().context("start an API server")
}
