//! The rights that `lpm run` gives up at its start.

use std::{path::Path, sync::Arc};

use crate::{
    api,
    config::{Config, Enabled, Role},
    kernel::{
        detach,
        netns::{Netns, Place},
        pins,
        privileges::{Needs, Reduced, reduce},
    },
};

/// What an agent with this configuration, from this file, takes.
fn needs(config: &Config, file: Option<&Path>) -> Needs {
    let kubernetes = config.identity.kubernetes();
    let kubeconfig = kubernetes.and_then(|settings| settings.kubeconfig);
    let names = config.names.as_deref();
    let web = config.web_config.as_deref();
    let tokens = (config.auth.tokens.iter()).filter_map(|token| token.file.as_deref());
    let keys = config.reflector.keys.iter();
    let keys = keys
        .chain(config.probes.keys())
        .map(|key| key.file.as_path());
    let reads = [file, names, kubeconfig.as_deref(), web]
        .into_iter()
        .flatten();
    let pins = config.pins.enabled.then(|| config.pins.path.clone());
    let socket = (config.socket.enabled != Enabled::Always(false)).then_some(&config.socket.path);
    let socket = socket.and_then(|path| path.parent());
    let ports = [
        Some(config.listen),
        config.health.listen,
        config.export.listen,
    ]
    .into_iter()
    .flatten();
    let ports = ports.chain(config.reflector.listen.iter().copied());
    Needs {
        keep: config.privileges,
        only_probes: config.role == Role::Prober,
        reads: reads
            .chain(tokens)
            .chain(keys)
            .map(Path::to_owned)
            .collect(),
        writes: pins.into_iter().chain(socket.map(Path::to_owned)).collect(),
        ports: ports.map(|address| address.port()).collect(),
        // A kubeconfig may name a program that gets credentials.
        executes: kubeconfig.is_some(),
    }
}

/// Reduces the rights of this thread. Returns what is left, and a thread in the network namespace
/// that is to be watched, if that is another one: it entered while it could.
///
/// # Errors
/// The namespace cannot be entered, or the directory of the pins cannot be made, or the kernel does
/// not let rights go.
pub(super) fn give_up(
    config: &Config,
    file: Option<&Path>,
) -> anyhow::Result<(Reduced, Option<Arc<Place>>)> {
    let needs = needs(config, file);
    let only_probes = needs.only_probes;
    if config.socket.enabled != Enabled::Always(false) {
        api::prepare_socket(&config.socket);
    }
    if config.pins.enabled {
        // Landlock's rules are for directories that exist.
        pins::prepare(&config.pins.path)?;
    }
    let place = if let Some(name) = config.netns.as_deref() {
        let (netns, needs) = (Netns::open(name)?, needs.clone());
        let give_up = move || {
            if !only_probes {
                remove_leftovers();
            }
            reduce(&needs).map(drop).map_err(anyhow::Error::from)
        };
        Some(Place::start(netns, give_up)?)
    } else {
        if !only_probes {
            remove_leftovers();
        }
        None
    };
    Ok((reduce(&needs)?, place.map(Arc::new)))
}

/// Removes what gone agents left in this thread's network namespace, while it can be seen whose it
/// is.
fn remove_leftovers() {
    match detach::remove_leftovers() {
        Ok(report) => {
            for trace in &report.removed {
                tracing::info!("removed {trace}, which a former agent left");
            }
        }
        // The start fails for the same reason, and says more.
        Err(error) => tracing::debug!(%error, "it was not looked for what former agents left"),
    }
}

/// Logs what is left.
pub(super) fn tell(reduced: &Reduced) {
    tracing::info!("the agent {reduced}");
    for file in &reduced.hidden {
        tracing::warn!(
            file = %file.display(),
            "only CAP_DAC_READ_SEARCH lets the agent read this file, so it keeps that capability: \
             make the file readable for the agent's user"
        );
    }
}
