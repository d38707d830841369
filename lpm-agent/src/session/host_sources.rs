//! Follows what the kernel knows beyond our programs' maps: tracked connections and ports. Nothing
//! is measured with it.

use std::sync::Arc;

use super::open_netns;
use crate::{
    config::{Config, node_name},
    identity::UNKNOWN,
    kernel::{conntrack::Conntrack, netns::NetnsError, ports::Ports},
    passive::Model,
};

/// Gives the model the tracked connections and the ports. Each is read in the watched network
/// namespace.
pub(super) fn follow(model: &Model, config: &Config) -> Result<(), NetnsError> {
    let conntrack = &config.conntrack;
    if conntrack.enabled {
        let backends = Arc::clone(model.backends());
        let hears = move |news| backends.hear(news);
        match Conntrack::start(open_netns(config)?, conntrack.most as usize, hears) {
            Ok(connections) => model.follow_translated(connections),
            // Most machines without services have no connection tracking either.
            Err(error) => {
                tracing::debug!(%error, "the agent cannot follow connections: flows to services lack their backends");
            }
        }
    }
    match Ports::open(open_netns(config)?) {
        Ok(ports) => {
            let node = node_name(config.node_name.as_deref());
            model.read_ports(ports, node.unwrap_or_else(|| UNKNOWN.into()));
        }
        Err(error) => {
            tracing::warn!(%error, "the traffic counters of the interfaces cannot be read");
        }
    }
    Ok(())
}
