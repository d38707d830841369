//! The configuration key `identity`: the sources of names.

use std::{
    env, fs,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, schema};
use crate::{
    identity::{
        external::{self, External},
        kubernetes, labels,
        permits::{self, Network, Permits},
    },
    kube::in_cluster,
};

/// The environment variable with the node's name, from the downward API.
const NODE_NAME: &str = "NODE_NAME";

/// Sources of names beside the names file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Identity {
    /// Names of pods, services and nodes from Kubernetes.
    pub kubernetes: Kubernetes,
    /// Names for ranges outside of the cluster. Takes effect without a restart.
    pub external: Vec<External>,
    /// Ranges of pod addresses that no node lists in `spec.podCIDRs`, such as the subnets of Azure
    /// CNI. An address in such a range that nobody has is `unknown`, not `external`. Takes effect
    /// without a restart.
    #[schemars(with = "Vec<String>", inner(regex(pattern = crate::identity::ranges::CIDR)))]
    #[serde(deserialize_with = "crate::identity::cidr::many")]
    pub cluster_ranges: Vec<IpNet>,
}

/// How the agent asks Kubernetes for names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Kubernetes {
    /// `true`, `false`, or `auto`: Kubernetes is asked in a pod, or if a kubeconfig is given.
    pub enabled: Enabled,
    /// A kubeconfig file. If absent: the service account of the pod. A relative path starts at the
    /// configuration's directory.
    pub kubeconfig: Option<PathBuf>,
    /// Which pods the agent follows at the API server: those of the whole `cluster`, or those of
    /// its own `node`.
    pub scope: Scope,
    /// Further networks of pods (L2S-M, Multus) whose addresses count. Pods' annotations name these
    /// addresses, and whoever may create a pod may write any address there, so without this key no
    /// annotation counts. An address counts if Multus reports it
    /// (`k8s.v1.cni.cncf.io/network-status`), and a network of this list has it and the name. A
    /// preset may set this key; `[]` permits nothing.
    #[schemars(length(max = 256))]
    pub networks: Vec<Network>,
    /// Labels of pods to show beside their names, and in `lpm_pod_info` and `lpm_workload_info` if
    /// those `levels` are on; at most 20.
    #[schemars(length(max = 20), inner(regex(pattern = schema::LABEL)), extend("uniqueItems" = true))]
    pub labels: Vec<String>,
}

/// Whether the agent asks Kubernetes for names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "give true, false or auto")]
pub enum Enabled {
    /// `auto`.
    #[default]
    #[serde(with = "auto")]
    #[schemars(with = "String", extend("const" = "auto"))]
    Auto,
    /// `true` or `false`.
    Always(bool),
}

mod auto {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str("auto")
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<(), D::Error> {
        match String::deserialize(from)?.as_str() {
            "auto" => Ok(()),
            other => Err(D::Error::custom(format!(
                "{other}: give true, false or auto"
            ))),
        }
    }
}

/// Which pods an agent follows at the API server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// All pods of the cluster.
    #[default]
    Cluster,
    /// The pods of the agent's own node. It asks the agents of other nodes for the names of their
    /// pods, over the port of `listen`. It acts as `cluster` if pods have addresses outside their
    /// nodes' ranges (`spec.podCIDRs`). Addresses of `networks` on other nodes are `unknown`.
    Node,
}

impl Identity {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if let Some((range, remedy)) = external::wrong(&self.external) {
            return Err(ConfigError::Value {
                key: "identity.external",
                value: range.cidr.to_string(),
                remedy,
            });
        }
        let networks = &self.kubernetes.networks;
        let no_range = || networks.iter().find(|network| network.cidr.is_none());
        let is_node = self.kubernetes.scope == Scope::Node;
        let beyond = is_node.then(no_range).flatten().map(|network| {
            let remedy = "give its cidr: with identity.kubernetes.scope node its addresses on \
                          other nodes are unknown, and without a range nobody can say which they are";
            (network, remedy)
        });
        if let Some((network, remedy)) = permits::wrong(networks).or(beyond) {
            return Err(ConfigError::Value {
                key: "identity.kubernetes.networks",
                value: network.to_string(),
                remedy,
            });
        }
        if let Some((value, remedy)) = labels::wrong(&self.kubernetes.labels) {
            return Err(ConfigError::Value {
                key: "identity.kubernetes.labels",
                value,
                remedy,
            });
        }
        Ok(())
    }

    /// Settings of the Kubernetes source. None: Kubernetes is not asked.
    #[must_use]
    pub fn kubernetes(&self) -> Option<kubernetes::Settings> {
        let Kubernetes {
            enabled,
            kubeconfig,
            labels,
            ..
        } = &self.kubernetes;
        let wanted = match enabled {
            Enabled::Always(always) => *always,
            Enabled::Auto => kubeconfig.is_some() || in_cluster(),
        };
        wanted.then(|| kubernetes::Settings {
            kubeconfig: kubeconfig.clone(),
            labels: labels.clone(),
            ranges: self.cluster_ranges.clone(),
            permits: self.permits(),
            of_node: None,
            nodes: Arc::default(),
        })
    }

    /// The further networks of pods whose addresses count.
    #[must_use]
    pub fn permits(&self) -> Permits {
        Permits::new(&self.kubernetes.networks)
    }

    /// The ranges of which an address without a name is an unknown pod's. With node scope these are
    /// also the further networks: only their pods on the agent's own node are known.
    #[must_use]
    pub fn cluster_ranges(&self) -> Vec<IpNet> {
        let networks = self.kubernetes.networks.iter();
        let networks = networks.filter(|_| self.kubernetes.scope == Scope::Node);
        let ranges = self.cluster_ranges.iter().copied();
        ranges
            .chain(networks.filter_map(|network| network.cidr))
            .collect()
    }

    /// True if the text of a configuration without errors has the key `identity.kubernetes.networks`.
    pub(super) fn gives_networks(text: &str) -> bool {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Given {
            identity: GivenIdentity,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct GivenIdentity {
            kubernetes: GivenKubernetes,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct GivenKubernetes {
            networks: Option<Vec<Network>>,
        }
        let given = serde_saphyr::from_str::<Given>(text);
        given.is_ok_and(|given| given.identity.kubernetes.networks.is_some())
    }

    /// Checks that other agents can reach this one, if they are asked for names: they listen at the
    /// port of this address.
    pub(super) fn check_listens(&self, listen: SocketAddr) -> Result<(), ConfigError> {
        let here_only = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        if self.kubernetes.scope == Scope::Cluster || !here_only.contains(&listen.ip()) {
            return Ok(());
        }
        Err(ConfigError::Value {
            key: "listen",
            value: listen.to_string(),
            remedy: "give an address that other nodes reach, such as 0.0.0.0:9477: with \
                     identity.kubernetes.scope node, the agents of other nodes ask this agent for \
                     names",
        })
    }
}

/// The name of this node: the given one, else `NODE_NAME`, else the host's name.
#[must_use]
pub fn node_name(given: Option<&str>) -> Option<Arc<str>> {
    let host = || fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = given.map(str::to_owned);
    let name = name.or_else(|| env::var(NODE_NAME).ok()).or_else(host)?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.into())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("lpm.yaml"))
    }

    #[test]
    fn kubernetes_is_asked_where_it_is_to_be_had() {
        for (text, asked) in [
            ("", in_cluster()),
            ("identity: {kubernetes: {enabled: auto}}", in_cluster()),
            (
                "identity: {kubernetes: {enabled: auto, kubeconfig: k}}",
                true,
            ),
            (
                "identity: {kubernetes: {enabled: false, kubeconfig: k}}",
                false,
            ),
            ("identity: {kubernetes: {enabled: true}}", true),
        ] {
            let config = parse(text).expect(text);
            assert_eq!(config.identity.kubernetes().is_some(), asked, "{text}");
            let shown = config.to_yaml().expect("YAML");
            assert_eq!(parse(&shown).expect(&shown), config, "{shown}");
        }
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        for (text, word) in [
            (
                "identity: {kubernetes: {enabled: perhaps}}",
                "true, false or auto",
            ),
            ("identity: {kubernetes: {scope: world}}", "world"),
            (
                "identity: {kubernetes: {labels: [team, a b]}}",
                "identity.kubernetes.labels is a b",
            ),
            (
                "identity: {kubernetes: {scope: node}}",
                "listen is 127.0.0.1",
            ),
            (
                "identity: {kubernetes: {networks: [{}]}}",
                "identity.kubernetes.networks is {}: give its name, its cidr, or both",
            ),
            (
                "listen: 0.0.0.0:1\nidentity: {kubernetes: {scope: node, networks: [{name: blue}]}}",
                "give its cidr",
            ),
            (
                "identity: {kubernetes: {networks: [{cidr: 1.2.3.4}]}}",
                "1.2.3.4/32",
            ),
            ("identity: {kubernetes: {networks: [{nmae: x}]}}", "nmae"),
            ("identity: {external: [{cidr: x, name: a}]}", "cidr"),
            (
                "identity: {cluster_ranges: [198.18.0.0/33]}",
                "cluster_ranges",
            ),
            (
                "identity: {external: [{cidr: 0.0.0.0/0, name: a}, {cidr: 0.0.0.0/0, name: b}]}",
                "identity.external is 0.0.0.0/0",
            ),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn the_nodes_name_as_given_goes_first() {
        assert_eq!(node_name(Some("n1")).as_deref(), Some("n1"));
        assert!(node_name(None).is_some(), "the host has a name");
    }
}
