//! The owner chain: a pod of a replica set is of a deployment, one of a job perhaps of a cron job.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::{objects::uid, texts::Texts};

/// Label of a replica set's pods: the last part of the replica set's name.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// What has pods and an owner of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Between {
    ReplicaSet,
    Job,
}

/// What replica sets and jobs belong to.
#[derive(Debug, Default)]
pub(super) struct Owners {
    workloads: [HashMap<u128, Arc<str>>; 2],
    /// They are not watched: what is not known has to be asked for, and a replica set's name tells
    /// enough.
    asks: bool,
    /// Owners that have been asked for.
    asked: HashSet<u128>,
}

/// Owners that are remembered where they are not watched: there nobody says that they are gone.
const REMEMBERED: usize = 4096;

/// An owner to be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) of: Between,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// The workload of a pod.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Workload {
    /// Its name.
    pub(super) name: Option<Arc<str>>,
    /// The replica set or job that has not been seen yet, and would tell for sure.
    pub(super) awaits: Option<u128>,
}

impl Owners {
    /// Whether owners are asked for one by one, and not watched.
    pub(super) fn set_asks(&mut self, asks: bool) {
        self.asks = asks;
    }

    /// What to ask for so that a pod's workload is known; each owner once.
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

    /// A replica set or job; returns the workload that its pods are of.
    pub(super) fn set(
        &mut self,
        of: Between,
        (uid, owner): (u128, &ObjectMeta),
        texts: &mut Texts,
    ) -> Arc<str> {
        let above = controller(owner).map(|controller| controller.name.as_str());
        let name = above.or(owner.name.as_deref()).unwrap_or_default();
        let name = texts.share(name);
        self.workloads[of as usize].insert(uid, Arc::clone(&name));
        name
    }

    /// It is gone. Its pods keep the name that they have.
    pub(super) fn remove(&mut self, of: Between, uid: u128) {
        self.workloads[of as usize].remove(&uid);
    }

    /// The workload of a pod on a node.
    pub(super) fn of(&self, pod: &ObjectMeta, node: Option<&str>, texts: &mut Texts) -> Workload {
        let Some(owner) = controller(pod) else {
            return Workload::default();
        };
        let mut workload = |name: &str, awaits| Workload {
            name: Some(texts.share(name)),
            awaits,
        };
        match owner.kind.as_str() {
            kind @ ("ReplicaSet" | "Job") => {
                let owner_uid = uid(&owner.uid);
                let of = match kind {
                    "Job" => Between::Job,
                    _ => Between::ReplicaSet,
                };
                if let Some(name) = self.workloads[of as usize].get(&owner_uid) {
                    return workload(name, None);
                }
                let short = without_hash(pod, &owner.name);
                // Deployments name their replica sets so: that is as good as the watch's word.
                let is_told = self.asks && short != owner.name;
                workload(short, (!is_told).then_some(owner_uid))
            }
            // A static pod: the kubelet adds its node's name to the pod's.
            "Node" => {
                let name = pod.name.as_deref().unwrap_or_default();
                let suffix = node.and_then(|node| name.strip_suffix(node)?.strip_suffix('-'));
                workload(suffix.unwrap_or(name), None)
            }
            _ => workload(&owner.name, None),
        }
    }
}

fn controller(of: &ObjectMeta) -> Option<&OwnerReference> {
    let owners = of.owner_references.as_deref().unwrap_or_default();
    owners.iter().find(|owner| owner.controller == Some(true))
}

/// The name of a deployment from that of its replica set.
fn without_hash<'a>(pod: &ObjectMeta, replica_set: &'a str) -> &'a str {
    let labels = pod.labels.as_ref();
    labels
        .and_then(|labels| labels.get(TEMPLATE_HASH))
        .and_then(|hash| replica_set.strip_suffix(hash.as_str())?.strip_suffix('-'))
        .unwrap_or(replica_set)
}
