//! Follows Kubernetes as a source of names for a session.

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::housekeeping::{Housekeeping, Update};
use crate::{
    config::{Config, Scope, node_name},
    identity::{
        Registry,
        kubernetes::{Kubernetes, KubernetesError, OfNode},
    },
    passive::Model,
};

/// Longest wait for names from Kubernetes before the first interface is watched.
const NAMES_WITHIN: Duration = Duration::from_secs(5);

/// Starts to follow Kubernetes, if the configuration asks for it. Returns when all names are known,
/// or after a few seconds: measuring without names is better than not measuring. `model`: whose
/// flows tell which addresses matter, in a session that measures.
pub(super) fn follow(
    config: &Config,
    registry: &Registry,
    model: Option<&Arc<Model>>,
    housekeeping: &Housekeeping,
) -> Result<Option<Kubernetes>, KubernetesError> {
    let (Some(mut settings), Some(updates)) =
        (config.identity.kubernetes(), housekeeping.updates())
    else {
        return Ok(None);
    };
    settings.of_node = of_node(config, registry, model);
    settings.nodes = Arc::clone(registry.cluster_nodes());
    let status = Arc::clone(registry.status());
    let tell = move |news| updates.send(Update::News(news)).is_ok();
    let kubernetes = Kubernetes::start(settings, Arc::clone(&status), tell)?;
    if !status.wait_for_names(NAMES_WITHIN) {
        tracing::warn!(
            "Kubernetes has not sent all names yet: addresses without a name are unknown"
        );
    }
    Ok(Some(kubernetes))
}

/// What node scope needs to follow one node's pods only. None: the whole cluster is followed.
fn of_node(config: &Config, registry: &Registry, model: Option<&Arc<Model>>) -> Option<OfNode> {
    if config.identity.kubernetes.scope == Scope::Cluster {
        return None;
    }
    Some(OfNode {
        // A machine without a name is no node: then the whole cluster is followed.
        node: node_name(config.node_name.as_deref()).unwrap_or_default(),
        port: config.listen.port(),
        publisher: Arc::clone(registry.publisher()),
        addresses: addresses(model),
    })
}

/// A function that gives the addresses in traffic. Without a model there are none.
fn addresses(model: Option<&Arc<Model>>) -> Arc<dyn Fn() -> Vec<IpAddr> + Send + Sync> {
    let Some(model) = model.map(Arc::clone) else {
        return Arc::new(Vec::new);
    };
    Arc::new(move || {
        let clock = model.clock();
        clock.map_or_else(|_| Vec::new(), |clock| model.addresses(&clock))
    })
}
