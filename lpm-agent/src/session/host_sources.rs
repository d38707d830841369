//! Follows what the kernel knows beyond our programs' maps: tracked connections and ports. Nothing
//! is measured with it.

use std::sync::Arc;

use crate::{
    config,
    identity::UNKNOWN,
    kernel::{conntrack::Conntrack, netns::Netns, ports::Ports},
    passive::Model,
};

/// Gives the model the tracked connections and the ports, each from its own network namespace.
pub(super) fn follow(
    model: &Model,
    (connections, conntrack): (Option<Netns>, &config::Conntrack),
    ports: Option<Netns>,
    node: Option<Arc<str>>,
) {
    if conntrack.enabled {
        let backends = Arc::clone(model.backends());
        let hears = move |news| backends.hear(news);
        match Conntrack::start(connections, conntrack.most as usize, hears) {
            Ok(connections) => model.follow_translated(connections),
            // Most machines without services have no connection tracking either.
            Err(error) => {
                tracing::debug!(%error, "the agent cannot follow connections: flows to services lack their backends");
            }
        }
    }
    match Ports::open(ports) {
        Ok(ports) => model.read_ports(ports, node.unwrap_or_else(|| UNKNOWN.into())),
        Err(error) => {
            tracing::warn!(%error, "the traffic counters of the interfaces cannot be read");
        }
    }
}
