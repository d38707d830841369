//! Two nodes on one machine: a real Kubernetes with kubelets, containers and Services.
//!
//! A node is a network namespace (`node-a`, `node-b`) with a containerd, a kubelet and a kube-proxy
//! of its own; the nodes' `eth0` are joined by a [`DelayLine`]. The API server, etcd, the controller
//! manager and the scheduler are on `node-a`, away from the wire for its own pods.
//!
//! | | `node-a` | `node-b` |
//! |---|---|---|
//! | node | 198.18.0.1 | 198.18.0.2 |
//! | pods | 198.19.1.0/24 | 198.19.2.0/24 |
//! | Services | 198.19.128.0/18 | |
//!
//! Both nodes share one kernel: interfaces are apart, but programs, maps and cgroups are not. Each
//! node sees directories of its own in place of `/sys/fs/bpf`, `/var/lib/cni`,
//! `/var/lib/kubelet/device-plugins` and `/var/log/containers`. Those of the machine that had to be
//! made for this go with the last cluster.
//!
//! Everything of a cluster is in [`Cluster::directory`], named by the process that made it, so that
//! [`Cluster::remove_stale`] finds what a killed one left.

mod image;
mod network;
mod node;
mod places;
mod remove;
mod view;

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, id},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

pub use self::{
    image::{TESTBED, pack, testbed_image},
    network::Network,
    node::Node,
};
use super::{ApiServer, Error, Programs, process::Process, site::Site};
use crate::testbed::{DelayLine, Impairment, Netns, WireEnd};

/// Where clusters keep their files.
pub const DIRECTORY: &str = "/run/lpm-cluster";

/// How long nodes and pods may take to be ready.
const PATIENCE: Duration = Duration::from_mins(3);

/// How a [`Cluster`] is made.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// The shape of the pods' network.
    pub network: Network,
    /// Images (docker-archives) for both nodes, beside the testbed's.
    pub images: Vec<PathBuf>,
    /// What the wire between the nodes does, both ways.
    pub wire: Impairment,
}

impl ClusterConfig {
    /// No images, a perfect wire.
    #[must_use]
    pub fn new(network: Network) -> Self {
        Self {
            network,
            images: Vec::new(),
            wire: Impairment::default(),
        }
    }
}

/// A running cluster; see the [module](self). It is gone when this is dropped.
#[derive(Debug)]
pub struct Cluster {
    // Dropped in this order: what asks before what answers.
    _control: Vec<Process>,
    /// The nodes.
    pub nodes: [Node; 2],
    /// The API, from anywhere in this process.
    pub api: ApiServer,
    /// The wire between the nodes; forward is from `node-a` to `node-b`.
    pub wire: DelayLine,
    programs: Programs,
    rest: Rest,
}

/// What remains when the processes are gone, removed last.
#[derive(Debug)]
struct Rest(PathBuf);

impl Drop for Rest {
    fn drop(&mut self) {
        if let Err(error) = remove::remove(&self.0) {
            eprintln!("cluster: {} is left behind: {error}", self.0.display());
        }
    }
}

/// The programs that a cluster consists of, and those that they start.
const PROGRAMS: [&str; 12] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
    "containerd",
    "ctr",
    "runc",
    "iptables",
    "conntrack",
];

impl Cluster {
    /// Starts a cluster and waits until both nodes are ready.
    pub fn up(config: &ClusterConfig) -> Result<Self, Error> {
        let programs = Programs::new();
        for program in PROGRAMS {
            programs.find(program)?;
        }
        Self::remove_stale()?;
        let dir = Path::new(DIRECTORY).join(id().to_string());
        fs::create_dir_all(&dir)
            .map_err(|source| Error::system(format!("make {}", dir.display()), source))?;
        let rest = Rest(dir.clone());
        let netns = [
            Arc::new(Netns::new("nodea").map_err(testbed)?),
            Arc::new(Netns::new("nodeb").map_err(testbed)?),
        ];
        let wire = DelayLine::between(end(&netns[0]), end(&netns[1]), 1500).map_err(testbed)?;
        network::underlay(&netns, config.network).map_err(testbed)?;
        let site = Site {
            netns: Some(Arc::clone(&netns[0])),
            address: Ipv4Addr::new(198, 18, 0, 1),
        };
        let api = ApiServer::start_at(&site, &node::tokens())?;
        let control = control(&programs, &site, &api, &dir)?;
        let image = testbed_image(&dir)?;
        let images: Vec<_> = [image].into_iter().chain(config.images.clone()).collect();
        let [a, b] = netns;
        let start = |number, netns| {
            node::start(
                &programs,
                &api,
                number,
                netns,
                &dir,
                config.network,
                &images,
            )
        };
        let nodes = [start(1, a)?, start(2, b)?];
        let mut cluster = Self {
            _control: control,
            nodes,
            api,
            wire,
            programs,
            rest,
        };
        cluster.wait_nodes(config.network)?;
        cluster.wire.set_both(&config.wire);
        drop(cluster.wire.take_records());
        Ok(cluster)
    }

    /// Starts one, or prints `LPM-SKIP` with the reason when programs are not there.
    ///
    /// # Panics
    ///
    /// If they are there and it does not come up.
    #[must_use]
    pub fn up_or_skip(config: &ClusterConfig) -> Option<Self> {
        match Self::up(config) {
            Ok(cluster) => Some(cluster),
            Err(error @ Error::Missing { .. }) => {
                println!("LPM-SKIP cluster: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Removes what killed clusters left: processes, mounts, namespaces, cgroups, files.
    pub fn remove_stale() -> Result<Vec<PathBuf>, Error> {
        let removed = remove::stale(Path::new(DIRECTORY))?;
        Netns::remove_stale().map_err(|source| Error::system("remove old namespaces", source))?;
        super::api::remove_stale();
        Ok(removed)
    }

    /// Where its files are: `node-a` and `node-b` with their logs, and `bpf` in each.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.rest.0
    }

    /// A program of Kubernetes (kubectl, helm) for the administrator, on `node-a`.
    pub fn tool(&self, program: &str) -> Result<Command, Error> {
        let mut command = self.nodes[0].netns.command(self.programs.find(program)?);
        command
            .env("KUBECONFIG", self.api.kubeconfig())
            .env("HOME", self.directory())
            .env("PATH", self.programs.path());
        Ok(command)
    }

    /// Loads an image (a docker-archive) into both nodes.
    pub fn load(&self, archive: &Path) -> Result<(), Error> {
        self.nodes
            .iter()
            .try_for_each(|node| node.load(&self.programs, archive))
    }

    /// Applies manifests in YAML.
    pub fn apply(&self, manifests: &str) -> Result<String, Error> {
        self.api.apply(manifests)
    }

    /// Waits until `done` says so of what the API answers at `path`.
    pub fn wait(
        &self,
        what: &str,
        path: &str,
        mut done: impl FnMut(&Value) -> bool,
    ) -> Result<Value, Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.api.request("GET", path, None)?;
            if answer.status == 200 && done(&answer.body) {
                return Ok(answer.body);
            }
            if Instant::now() > deadline {
                return Err(Error::Program {
                    program: what.to_owned(),
                    reason: format!(
                        "this did not happen within {PATIENCE:?}; the last value of {path} was {}",
                        answer.body
                    ),
                });
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until a Deployment or `DaemonSet` (`deployments`, `daemonsets`) has all pods ready.
    pub fn wait_ready(&self, kind: &str, namespace: &str, name: &str) -> Result<(), Error> {
        let path = format!("/apis/apps/v1/namespaces/{namespace}/{kind}/{name}");
        self.wait(&format!("{kind}/{name} ready"), &path, |object| {
            let status = &object["status"];
            let number = |key: &str| status[key].as_u64();
            let current = status["observedGeneration"] == object["metadata"]["generation"];
            let (wanted, updated, ready) = if kind == "daemonsets" {
                (
                    number("desiredNumberScheduled").filter(|count| *count > 0),
                    number("updatedNumberScheduled"),
                    number("numberReady"),
                )
            } else {
                let wanted = object["spec"]["replicas"].as_u64();
                (wanted, number("updatedReplicas"), number("readyReplicas"))
            };
            current && wanted.is_some() && wanted == updated && wanted == ready
        })
        .map(drop)
    }

    fn wait_nodes(&mut self, network: Network) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        for (number, node) in (1..).zip(&mut self.nodes) {
            let path = format!("/api/v1/nodes/{}", node.name);
            node.wait_until("the node ready", deadline, || {
                self.api.get(&path).is_ok_and(|node| is_ready(&node))
            })?;
            if network.gives_nodes_ranges() {
                let range = network::pods(number);
                let change = json!({"spec": {"podCIDR": range, "podCIDRs": [range]}});
                self.api.patch(&path, &change)?;
            }
        }
        Ok(())
    }
}

fn is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// The controller manager and the scheduler.
fn control(
    programs: &Programs,
    site: &Site,
    api: &ApiServer,
    dir: &Path,
) -> Result<Vec<Process>, Error> {
    let mut started = Vec::new();
    for program in ["kube-controller-manager", "kube-scheduler"] {
        let mut command = site.command(programs.find(program)?);
        command.arg(format!("--kubeconfig={}", api.kubeconfig().display()));
        command.args(["--leader-elect=false", "--profiling=false"]);
        command.args(["--bind-address=127.0.0.1"]);
        if program == "kube-controller-manager" {
            let file = |name: &str| api.directory().join(name).display().to_string();
            command.args([
                format!(
                    "--service-account-private-key-file={}",
                    file("service-account.key")
                ),
                format!("--root-ca-file={}", file("certificates/apiserver.crt")),
                // Attaching volumes needs a directory of plugins; this one stays empty.
                format!("--flex-volume-plugin-dir={}", file("plugins")),
            ]);
        }
        started.push(Process::start(command, program, dir)?);
    }
    Ok(started)
}

fn end(netns: &Netns) -> WireEnd<'_> {
    WireEnd {
        netns,
        interface: "eth0",
    }
}

/// An error of the testbed as one of ours.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn testbed(error: crate::testbed::Error) -> Error {
    Error::Program {
        program: "the testbed".to_owned(),
        reason: error.to_string(),
    }
}
