//! What a cluster and the agents in it could leave behind, by name.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use lpm_testbed::kubernetes::{Cluster, cluster::Node};

use crate::{chart, eventually};

/// Where containerd 1.6 keeps a directory per running container.
const TASKS: &str = "containers/io.containerd.runtime.v2.task/k8s.io";

/// Where programs of a cluster make directories of the machine.
const PLACES: [&str; 9] = [
    "/etc/cni",
    "/etc/kubernetes",
    "/opt/cni",
    "/run/containerd",
    "/run/flannel",
    "/usr/libexec/kubernetes",
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/log/containers",
];

/// The directories of the machine that a cluster might leave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Machine(Vec<PathBuf>);

impl Machine {
    /// Those that are there now, with those in them.
    pub(crate) fn now() -> Self {
        let mut found = Vec::new();
        let mut open = PLACES.map(PathBuf::from).to_vec();
        while let Some(place) = open.pop() {
            if place.is_dir() {
                open.extend(entries(&place));
                found.push(place);
            }
        }
        found.sort();
        Self(found)
    }
}

/// Names of what is there while a cluster runs.
pub(crate) struct Traces {
    directory: PathBuf,
    networks: Vec<PathBuf>,
    containers: BTreeSet<String>,
    programs: BTreeSet<u32>,
}

impl Traces {
    /// Those of a cluster with the agents in it.
    pub(crate) fn of(cluster: &Cluster) -> Self {
        let programs = chart::programs(cluster);
        assert!(!programs.is_empty(), "there are programs to remove");
        Self {
            directory: cluster.directory().to_owned(),
            networks: cluster.nodes.iter().map(|node| node.netns.path()).collect(),
            containers: cluster.nodes.iter().flat_map(containers).collect(),
            programs,
        }
    }

    /// Waits until the kernel has none of the programs any more.
    pub(crate) fn programs_go(&self) {
        eventually("the programs gone", || {
            let loaded = aya::programs::loaded_programs().filter_map(Result::ok);
            let left: Vec<_> = loaded
                .map(|program| program.id())
                .filter(|id| self.programs.contains(id))
                .collect();
            left.is_empty()
        });
    }

    /// Asserts that all is gone.
    pub(crate) fn are_gone(&self) {
        assert!(!self.directory.exists(), "{}", self.directory.display());
        for network in &self.networks {
            assert!(!network.exists(), "{}", network.display());
        }
        let below = format!("{}/", self.directory.display());
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let left: Vec<_> = mounts
            .lines()
            .filter(|line| line.contains(&below))
            .collect();
        assert!(left.is_empty(), "mounts: {left:#?}");
        let processes = entries(Path::new("/proc")).into_iter().filter(|process| {
            let line = fs::read(process.join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&below)
        });
        let left: Vec<_> = processes.collect();
        assert!(left.is_empty(), "processes: {left:#?}");
        // Of version 2, or of each hierarchy of version 1.
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies = entries(root).into_iter().chain([root.to_owned()]);
        let groups = hierarchies.flat_map(|place| entries(&place.join("k8s.io")));
        let left: Vec<_> = groups
            .filter(|group| {
                let name = group.file_name().unwrap_or_default();
                self.containers.contains(&*name.to_string_lossy())
            })
            .collect();
        assert!(left.is_empty(), "control groups: {left:#?}");
    }
}

fn containers(node: &Node) -> Vec<String> {
    let tasks = entries(&node.directory.join(TASKS));
    let names = tasks.iter().filter_map(|task| task.file_name());
    let names: Vec<_> = names
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    assert!(!names.is_empty(), "{} has containers", node.name);
    names
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
