//! A node with two pods and a remote machine beyond a wire, for two agents.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::Error;
use crate::{
    kubernetes::ApiServer,
    testbed::{Bpffs, Impairment, Netns, Pair, PairConfig},
};

/// What the wire holds each packet for, each way: the least that a round trip beyond it takes.
pub(super) const DELAY: Duration = Duration::from_millis(2);

/// The node's end of the veth of the pod whose TCP has no timestamps.
pub(super) const PLAIN_INTERFACE: &str = "vethplain";

/// The address of the pod whose TCP has no timestamps.
const PLAIN: Ipv4Addr = Ipv4Addr::new(198, 18, 3, 2);

/// An address of the remote machine whose owner changes every second.
pub(super) const CHANGING: Ipv4Addr = Ipv4Addr::new(198, 18, 2, 77);

/// Interfaces that come and go have this prefix.
pub(super) const CYCLED: &str = "vethcyc";

/// The namespaces of the two pods and the remote machine, and that of the owners that change.
pub(super) const NAMESPACES: [&str; 4] = ["shop", "bank", "media", "games"];

/// The topology, and where the agents' configurations and pins are.
pub(super) struct Site {
    pub(super) pair: Pair,
    /// The pod whose TCP has no timestamps.
    pub(super) plain: Netns,
    bpffs: Bpffs,
    directory: TempDir,
}

impl Site {
    /// Lays out the topology: a wire of a fixed delay, and a second pod beside that of [`Pair`].
    pub(super) fn new() -> Result<Self, Error> {
        let pair = Pair::new(&PairConfig {
            wire: Some(Impairment::delay(DELAY)),
            ..PairConfig::default()
        })?;
        let plain = Netns::new("plain")?;
        plain.set_tcp_timestamps(false)?;
        pair.node.veth(PLAIN_INTERFACE, &plain, "eth0", 1500)?;
        pair.node.ip_batch(&format!(
            "addr add 198.18.3.1/24 dev {PLAIN_INTERFACE}\nlink set {PLAIN_INTERFACE} up"
        ))?;
        plain.ip_batch(&format!(
            "addr add {PLAIN}/24 dev eth0\nlink set eth0 up\nroute add default via 198.18.3.1"
        ))?;
        pair.server
            .ip(&format!("addr add {CHANGING}/24 dev eth0"))?;
        Ok(Self {
            pair,
            plain,
            bpffs: Bpffs::mount("mode=0700")?,
            directory: tempfile::tempdir().map_err(Error::io("make a temporary directory"))?,
        })
    }

    /// Writes the configuration of the agent `name`, which watches an interface and all that come
    /// and go, and follows the cluster.
    pub(super) fn configuration(
        &self,
        name: &str,
        interface: &str,
        api: &ApiServer,
    ) -> Result<PathBuf, Error> {
        let file = self.directory.path().join(format!("{name}.yaml"));
        let text = json!({
            "interfaces": [
                {"name": interface, "vantage": "pod"},
                {"name": format!("{CYCLED}*"), "vantage": "pod"},
                {"vantage": "none"},
            ],
            "flows": 4096, "rows": 256, "keep_gone": "3s", "flow_idle": "10s", "window": "1s",
            "node_name": "n1", "levels": {"workload": true, "pod": true},
            "identity": {
                "kubernetes": {"kubeconfig": api.kubeconfig()},
                "cluster_ranges": ["198.18.0.0/16"],
            },
            "pins": {"enabled": true, "path": self.bpffs.path().join(name)},
            "socket": {"enabled": false},
        });
        // JSON is YAML.
        fs::write(&file, text.to_string()).map_err(Error::io("write a configuration"))?;
        Ok(file)
    }
}

/// Makes the namespaces, and the pods that stay.
pub(super) fn populate(api: &ApiServer) -> Result<(), Error> {
    for name in NAMESPACES {
        api.create("/api/v1/namespaces", &json!({"metadata": {"name": name}}))?;
    }
    let stay: [(_, _, IpAddr); 3] = [
        ("shop", "n1", Pair::CLIENT[0]),
        ("bank", "n1", PLAIN.into()),
        ("media", "n2", Pair::SERVER[0]),
    ];
    for (namespace, node, address) in stay {
        api.create_pod(namespace, "pod-0", node, &[&address.to_string()])?;
    }
    Ok(())
}

/// The pod of the job with this number, which has the address that changes hands.
pub(super) fn job(number: u32) -> Value {
    let name = format!("job-{number}");
    json!({
        "metadata": {"name": name, "ownerReferences": [{
            "apiVersion": "batch/v1", "kind": "Job", "name": name, "controller": true,
            "uid": format!("{number:08x}-0000-4000-8000-000000000000"),
        }]},
        "spec": {"nodeName": "n2", "containers": [{"name": "main", "image": "none"}]},
    })
}
