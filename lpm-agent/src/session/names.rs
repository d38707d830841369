//! The names of a session: the housekeeping thread that keeps them, and Kubernetes as a source of
//! them. Names need no kernel program.

use std::sync::Arc;

use super::{
    SessionError,
    housekeeping::{Configured, Housekeeping},
    kubernetes,
    passive_chores::{PassiveChores, Times},
};
use crate::{
    config::{Config, node_name},
    identity::{
        PrefixMap, Registry, kubernetes::Kubernetes, labels::Chosen, names_file::NamesError,
    },
    kernel::netns::Netns,
    passive::Model,
};

/// The sources of names, and the thread that merges them.
#[derive(Debug)]
pub(super) struct Names {
    // Fields are dropped in this order: a source ends before the thread that it reports to, which
    // ends when its last source is gone.
    _kubernetes: Option<Kubernetes>,
    housekeeping: Housekeeping,
    registry: Arc<Registry>,
}

impl Names {
    /// Starts the sources. Returns when all names are known, or after a few seconds. `model`: whose
    /// kernel maps get the names too, in a session that measures. `netns`: the network namespace
    /// whose addresses are this node's own; None: this process's.
    pub(super) fn start(
        config: &Config,
        configured: Configured,
        netns: Option<Netns>,
        registry: Arc<Registry>,
        model: Option<&Arc<Model>>,
    ) -> Result<Self, SessionError> {
        let chores = model.map(|model| PassiveChores::new(Arc::clone(model), times(config)));
        let housekeeping = Housekeeping::start(Arc::clone(&registry), chores, configured, netns)?;
        Ok(Self {
            _kubernetes: kubernetes::follow(config, &registry, model, &housekeeping)?,
            housekeeping,
            registry,
        })
    }

    /// Replaces the names of the configuration.
    pub(super) fn configure(&self, configured: Configured) {
        self.housekeeping.configure(configured);
    }

    /// Names by address.
    pub(super) fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }
}

/// An empty registry for the names of this node's session.
pub(super) fn registry(config: &Config) -> Arc<Registry> {
    let labels = Chosen::new(&config.identity.kubernetes.labels);
    let node = node_name(config.node_name.as_deref());
    Arc::new(Registry::on_node(node, labels))
}

/// Reads the names that the configuration gives.
pub(super) fn configured(config: &Config) -> Result<Configured, NamesError> {
    let file = config.names.as_deref();
    Ok(Configured {
        file: file.map_or_else(|| Ok(PrefixMap::default()), PrefixMap::read)?,
        external: config.identity.external.clone(),
        within: config.identity.cluster_ranges.clone(),
        node: node_name(config.node_name.as_deref()),
        complete: config.identity.kubernetes().is_none(),
    })
}

fn times(config: &Config) -> Times {
    Times {
        window: config.window,
        keep: config.pins.keep,
        keep_gone: config.keep_gone,
    }
}
