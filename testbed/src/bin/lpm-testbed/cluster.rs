//! A real Kubernetes that lasts until a signal.

use std::{path::PathBuf, thread, time::Duration};

use clap::ValueEnum;
use lpm_testbed::{
    kubernetes::{Cluster, ClusterConfig, Network},
    testbed::Direction,
};
use serde_json::json;

use crate::{lab, wire::WireArgs};

/// How often the wire's log is thrown away: nobody reads it.
const FORGET: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Shape of the pods' network.
    #[arg(long, value_enum, default_value = "flannel")]
    network: NetworkName,
    /// Images (docker-archives) to load into both nodes.
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,
    #[command(flatten)]
    wire: WireArgs,
}

/// Networks of the pods.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum NetworkName {
    /// Bridge cni0 and a routed flannel.1, UDP 8472, MTU 1450.
    Flannel,
    /// Azure CNI's: a route per pod, no bridge, no overlay.
    Azure,
}

/// Starts it, says in one line of JSON where everything is, and stays.
pub(crate) fn main(arguments: &Args) -> anyhow::Result<()> {
    arguments.wire.check()?;
    let network = match arguments.network {
        NetworkName::Flannel => Network::Flannel,
        NetworkName::Azure => Network::Azure,
    };
    let cluster = Cluster::up(&ClusterConfig {
        images: arguments.image.clone(),
        wire: arguments.wire.impairment(Direction::Forward),
        ..ClusterConfig::new(network)
    })?;
    arguments.wire.apply(&cluster.wire);
    let nodes: Vec<_> = cluster
        .nodes
        .iter()
        .map(|node| {
            json!({"name": node.name, "netns": node.netns.path(), "bpffs": node.bpffs,
                   "directory": node.directory})
        })
        .collect();
    println!(
        "{}",
        json!({"pid": std::process::id(), "directory": cluster.directory(), "api": cluster.api.url(),
               "kubeconfig": cluster.api.kubeconfig(), "nodes": nodes})
    );
    thread::scope(|scope| {
        let (ended, end) = std::sync::mpsc::channel::<()>();
        let wire = &cluster.wire;
        scope.spawn(move || {
            let going_on = std::sync::mpsc::RecvTimeoutError::Timeout;
            while end.recv_timeout(FORGET) == Err(going_on) {
                drop(wire.take_records());
            }
        });
        let outcome = lab::wait_for_end(|line| match WireArgs::from_line(line) {
            Ok(settings) => settings.apply(wire),
            Err(error) => eprintln!("{error}"),
        });
        drop(ended);
        outcome
    })
}
