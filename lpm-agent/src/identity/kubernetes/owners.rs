//! The owner chain: a pod of a replica set belongs to a deployment, and a pod of a job perhaps to a
//! cron job.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::intern::Interner;
use crate::kube::uid;

/// Label of a replica set's pods: the last part of the replica set's name.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// Kinds of objects that have pods and an owner of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Between {
    ReplicaSet,
    Job,
}

impl Between {
    fn as_str(self) -> &'static str {
        match self {
            Self::ReplicaSet => "replicaset",
            Self::Job => "job",
        }
    }
}

/// The workload that a pod belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Workload {
    /// Kind of the workload, with the names of `identity::Name::workload_type`.
    pub(super) kind: Arc<str>,
    pub(super) name: Arc<str>,
}

/// The owners of replica sets and jobs.
#[derive(Debug, Default)]
pub(super) struct Owners {
    workloads: [HashMap<u128, Workload>; 2],
    /// True: owners are not watched. An unknown one has to be requested, and the name of a replica
    /// set is enough.
    asks: bool,
    /// Owners that have been requested.
    asked: HashSet<u128>,
}

/// Most owners that are remembered where they are not watched: nobody reports there that they are
/// gone.
const REMEMBERED: usize = 4096;

/// An owner to be requested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) of: Between,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// The workload of a pod, and the replica set or job that has not been seen yet and would confirm
/// it.
pub(super) type Told = (Workload, Option<u128>);

impl Owners {
    /// Sets whether owners are requested one by one, and not watched.
    pub(super) fn set_asks(&mut self, asks: bool) {
        self.asks = asks;
    }

    /// The request that makes a pod's workload known. Each owner is requested once.
    pub(super) fn wanted(&mut self, pod: &ObjectMeta) -> Option<Wanted> {
        let owner = controller(pod).filter(|_| self.asks)?;
        let of = match owner.kind.as_str() {
            "Job" => Between::Job,
            "ReplicaSet" if without_hash(pod, &owner.name) == owner.name => Between::ReplicaSet,
            _ => return None,
        };
        let uid = uid(&owner.uid);
        if self.workloads[of as usize].contains_key(&uid) {
            return None;
        }
        if self.asked.len() >= REMEMBERED {
            self.asked.clear();
            self.workloads = Default::default();
        }
        self.asked.insert(uid).then(|| Wanted {
            of,
            namespace: pod.namespace.clone().unwrap_or_default(),
            name: owner.name.clone(),
        })
    }

    pub(super) fn len(&self, of: Between) -> usize {
        self.workloads[of as usize].len()
    }

    pub(super) fn uids(&self, of: Between) -> impl Iterator<Item = u128> {
        self.workloads[of as usize].keys().copied()
    }

    /// Records a replica set or job. Returns the workload of its pods.
    pub(super) fn set(
        &mut self,
        of: Between,
        uid: u128,
        owner: &ObjectMeta,
        texts: &mut Interner,
    ) -> Workload {
        let own = (of.as_str(), owner.name.as_deref().unwrap_or_default());
        let above = controller(owner).map(|above| (kind(&above.kind), above.name.as_str()));
        let (kind, name) = above.unwrap_or(own);
        let workload = workload(kind, name, texts);
        self.workloads[of as usize].insert(uid, workload.clone());
        workload
    }

    /// Removes an owner that is gone. Its pods keep their names.
    pub(super) fn remove(&mut self, of: Between, uid: u128) {
        self.workloads[of as usize].remove(&uid);
    }

    /// The workload of a pod on a node.
    pub(super) fn of(&self, pod: &ObjectMeta, node: Option<&str>, texts: &mut Interner) -> Told {
        let own_name = pod.name.as_deref().unwrap_or_default();
        let Some(owner) = controller(pod) else {
            return (workload("barepod", own_name, texts), None);
        };
        let of = match owner.kind.as_str() {
            "Job" => Between::Job,
            "ReplicaSet" => Between::ReplicaSet,
            // The kubelet adds its node's name to the pod's.
            "Node" => {
                let suffix = node.and_then(|node| own_name.strip_suffix(node)?.strip_suffix('-'));
                let name = suffix.unwrap_or(own_name);
                return (workload("staticpod", name, texts), None);
            }
            other => return (workload(kind(other), &owner.name, texts), None),
        };
        let uid = uid(&owner.uid);
        if let Some(workload) = self.workloads[of as usize].get(&uid) {
            return (workload.clone(), None);
        }
        // Deployments name their replica sets so. It is as good as the watch's answer.
        let short = without_hash(pod, &owner.name);
        let is_short = short != owner.name;
        let kind = if is_short { "deployment" } else { of.as_str() };
        let told = self.asks && is_short;
        (workload(kind, short, texts), (!told).then_some(uid))
    }
}

fn workload(kind: &str, name: &str, texts: &mut Interner) -> Workload {
    Workload {
        kind: texts.share(kind),
        name: texts.share(name),
    }
}

/// The name of a kind in the recording rules of kubernetes-mixin. A kind that they do not know
/// stays as it is.
fn kind(kind: &str) -> &str {
    match kind {
        "Deployment" => "deployment",
        "ReplicaSet" => Between::ReplicaSet.as_str(),
        "StatefulSet" => "statefulset",
        "DaemonSet" => "daemonset",
        "Job" => Between::Job.as_str(),
        "CronJob" => "cronjob",
        other => other,
    }
}

fn controller(of: &ObjectMeta) -> Option<&OwnerReference> {
    let owners = of.owner_references.as_deref().unwrap_or_default();
    owners.iter().find(|owner| owner.controller == Some(true))
}

/// The name of a deployment, from the name of its replica set.
fn without_hash<'a>(pod: &ObjectMeta, replica_set: &'a str) -> &'a str {
    let labels = pod.labels.as_ref();
    labels
        .and_then(|labels| labels.get(TEMPLATE_HASH))
        .and_then(|hash| replica_set.strip_suffix(hash.as_str())?.strip_suffix('-'))
        .unwrap_or(replica_set)
}
