//! Kubernetes objects, reduced to the fields that names are made of. Other fields are not even
//! parsed into memory.

use std::{borrow::Cow, collections::BTreeMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    ManagedFieldsEntry, ObjectMeta, OwnerReference, Time,
};
use kube::Resource;
use serde::{Deserialize, Deserializer};

use super::networks::{self, Claimed};

/// Annotation of Multus: the networks that a pod is in.
pub(super) const NETWORK_STATUS: &str = "k8s.v1.cni.cncf.io/network-status";

/// Annotation for Multus: the networks that it is to attach a pod to.
pub(super) const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";

/// Annotation of L2S-M: the networks that a pod wants to be in.
pub(super) const L2SM_NETWORKS: &str = "l2sm/networks";

/// Annotations with addresses of a node's tunnel devices (Calico, Cilium). Packets from the node to
/// pods of other nodes have these addresses.
pub(super) const TUNNEL_ADDRESSES: [&str; 6] = [
    "projectcalico.org/IPv4IPIPTunnelAddr",
    "projectcalico.org/IPv4VXLANTunnelAddr",
    "projectcalico.org/IPv6VXLANTunnelAddr",
    "projectcalico.org/IPv4WireguardInterfaceAddr",
    "network.cilium.io/ipv4-cilium-host",
    "network.cilium.io/ipv6-cilium-host",
];

/// Implements [`Resource`] for a type with the field `metadata`.
macro_rules! resource {
    ($type:ident, $group:literal, $plural:literal, $scope:ident, metadata only: $partial:literal) => {
        impl Resource for $type {
            type DynamicType = ();
            type Scope = kube::core::$scope;

            fn kind((): &()) -> Cow<'_, str> {
                stringify!($type).into()
            }

            fn group((): &()) -> Cow<'_, str> {
                $group.into()
            }

            fn version((): &()) -> Cow<'_, str> {
                "v1".into()
            }

            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn metadata_api() -> bool {
                $partial
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

/// A pod that services may select.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "SentPod")]
pub struct Pod {
    /// Metadata without annotations: a pod's may be 256 KiB, and some thousand events wait at once.
    pub(super) metadata: ObjectMeta,
    /// What the annotations claim of further networks.
    pub(super) claimed: Claimed,
    pub(super) spec: PodSpec,
    pub(super) status: PodStatus,
}

/// A pod as the API server sends it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct SentPod {
    #[serde(deserialize_with = "metadata")]
    metadata: ObjectMeta,
    spec: PodSpec,
    status: PodStatus,
}

impl From<SentPod> for Pod {
    fn from(sent: SentPod) -> Self {
        let SentPod {
            mut metadata,
            spec,
            status,
        } = sent;
        let claimed = networks::read(&metadata);
        metadata.annotations = None;
        Self {
            metadata,
            claimed,
            spec,
            status,
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PodSpec {
    pub(super) node_name: Option<String>,
    pub(super) host_network: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PodStatus {
    pub(super) phase: Option<String>,
    #[serde(rename = "podIP")]
    pub(super) pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pub(super) pod_ips: Option<Vec<PodIp>>,
    pub(super) start_time: Option<Time>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PodIp {
    pub(super) ip: String,
}

/// A service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    #[serde(deserialize_with = "metadata")]
    pub(super) metadata: ObjectMeta,
    pub(super) spec: ServiceSpec,
    pub(super) status: ServiceStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ServiceSpec {
    #[serde(rename = "clusterIP")]
    pub(super) cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    pub(super) cluster_ips: Option<Vec<String>>,
    #[serde(rename = "externalIPs")]
    pub(super) external_ips: Option<Vec<String>>,
    pub(super) selector: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ServiceStatus {
    pub(super) load_balancer: LoadBalancer,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LoadBalancer {
    pub(super) ingress: Option<Vec<Ingress>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Ingress {
    pub(super) ip: Option<String>,
}

/// A part of the addresses behind a service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct EndpointSlice {
    #[serde(deserialize_with = "metadata")]
    pub(super) metadata: ObjectMeta,
    pub(super) endpoints: Option<Vec<Endpoint>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Endpoint {
    pub(super) addresses: Option<Vec<String>>,
}

/// A node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    #[serde(deserialize_with = "metadata")]
    pub(super) metadata: ObjectMeta,
    pub(super) spec: NodeSpec,
    pub(super) status: NodeStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pub(super) pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pub(super) pod_cidrs: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeStatus {
    pub(super) addresses: Option<Vec<NodeAddress>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeAddress {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) address: String,
}

/// A replica set. Its owner is a deployment.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ReplicaSet {
    #[serde(deserialize_with = "metadata")]
    pub(super) metadata: ObjectMeta,
}

/// A job. Its owner may be a cron job.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Job {
    #[serde(deserialize_with = "metadata")]
    pub(super) metadata: ObjectMeta,
}

/// The kubelet's object about its node's storage. It is made when a node joins, goes with the node,
/// and hardly ever changes between.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CSINode {
    #[serde(deserialize_with = "metadata")]
    pub(super) metadata: ObjectMeta,
}

resource!(Pod, "", "pods", NamespaceResourceScope, metadata only: false);
resource!(Service, "", "services", NamespaceResourceScope, metadata only: false);
resource!(Node, "", "nodes", ClusterResourceScope, metadata only: false);
resource!(EndpointSlice, "discovery.k8s.io", "endpointslices", NamespaceResourceScope, metadata only: false);
resource!(ReplicaSet, "apps", "replicasets", NamespaceResourceScope, metadata only: true);
resource!(CSINode, "storage.k8s.io", "csinodes", ClusterResourceScope, metadata only: true);
resource!(Job, "batch", "jobs", NamespaceResourceScope, metadata only: true);

/// The metadata that is kept. The record of who changed which field, which is left out, is most of
/// an object's size.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    deletion_grace_period_seconds: Option<i64>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
    managed_fields: Option<Vec<Managed>>,
}

#[derive(Deserialize)]
struct Managed {
    time: Option<Time>,
}

fn metadata<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    let kept = Kept::deserialize(from)?;
    let annotations = kept.annotations.map(|mut annotations| {
        annotations.retain(|key, _| {
            [NETWORK_STATUS, NETWORKS, L2SM_NETWORKS].contains(&key.as_str())
                || TUNNEL_ADDRESSES.contains(&key.as_str())
        });
        annotations
    });
    let managed = |entry: Managed| ManagedFieldsEntry {
        time: entry.time,
        ..ManagedFieldsEntry::default()
    };
    let managed_fields = kept
        .managed_fields
        .map(|entries| entries.into_iter().map(managed).collect());
    Ok(ObjectMeta {
        name: kept.name,
        namespace: kept.namespace,
        uid: kept.uid,
        resource_version: kept.resource_version,
        creation_timestamp: kept.creation_timestamp,
        deletion_timestamp: kept.deletion_timestamp,
        deletion_grace_period_seconds: kept.deletion_grace_period_seconds,
        labels: kept.labels,
        annotations,
        owner_references: kept.owner_references,
        managed_fields,
        ..ObjectMeta::default()
    })
}

impl Pod {
    /// True if the pod has returned its addresses, though its object may still show them.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"))
    }

    /// True if the pod was asked to end.
    pub(super) fn is_going(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Name of the pod's node. None: nothing runs.
    pub(super) fn node(&self) -> Option<&str> {
        self.spec
            .node_name
            .as_deref()
            .filter(|name| !name.is_empty())
    }

    /// When the pod was asked to end, if the event is the first to say so: the writer of its end
    /// overwrites that.
    pub(super) fn asked_to_go(&self) -> Option<k8s_openapi::jiff::Timestamp> {
        let due = self.metadata.deletion_timestamp.as_ref()?.0;
        let grace = self.metadata.deletion_grace_period_seconds.unwrap_or(0);
        due.checked_sub(k8s_openapi::jiff::SignedDuration::from_secs(grace))
            .ok()
    }

    /// When its node started the pod, or else when the pod was created (whole seconds).
    pub(super) fn began(&self) -> Option<k8s_openapi::jiff::Timestamp> {
        let time = self.status.start_time.as_ref();
        time.or(self.metadata.creation_timestamp.as_ref())
            .map(|time| time.0)
    }

    /// When the pod was last written to, by the writer's own clock (whole seconds).
    pub(super) fn changed(&self) -> Option<k8s_openapi::jiff::Timestamp> {
        let entries = self.metadata.managed_fields.iter().flatten();
        let times = entries.filter_map(|entry| entry.time.as_ref());
        times.map(|time| time.0).max()
    }
}
