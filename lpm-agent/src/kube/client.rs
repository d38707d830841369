//! The Kubernetes client: connects to the API server.

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use kube::{
    Client, Config,
    config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use thiserror::Error;

/// Environment variable with the address of the API server, which every pod has.
const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";

/// Time limit of a connection attempt.
const CONNECT: Duration = Duration::from_secs(10);

/// Why there is no way to the API server.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The kubeconfig is not valid.
    #[error(
        "cannot use the kubeconfig {path}: {source}; `kubectl --kubeconfig {path} version` shows \
         whether it is valid"
    )]
    Kubeconfig {
        /// Path of the kubeconfig.
        path: PathBuf,
        /// The error in the kubeconfig.
        source: Box<KubeconfigError>,
    },
    /// There is neither a kubeconfig nor a service account.
    #[error(
        "cannot ask Kubernetes for names, because this process has no service account: {0}; give \
         identity.kubernetes.kubeconfig, or set identity.kubernetes.enabled to false"
    )]
    InCluster(Box<InClusterError>),
    /// A client cannot be made from the configuration.
    #[error("cannot prepare the connection to the Kubernetes API: {0}")]
    Client(Box<kube::Error>),
}

/// True if this process runs in a pod.
#[must_use]
pub fn in_cluster() -> bool {
    env::var_os(IN_CLUSTER).is_some()
}

/// Makes a client by a kubeconfig, or by the pod's service account.
pub(crate) async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ConnectError> {
    let mut config = match kubeconfig {
        Some(path) => by_file(path)
            .await
            .map_err(|source| ConnectError::Kubeconfig {
                path: path.to_owned(),
                source: Box::new(source),
            })?,
        None => Config::incluster().map_err(|error| ConnectError::InCluster(Box::new(error)))?,
    };
    config.connect_timeout = Some(CONNECT);
    Client::try_from(config).map_err(|error| ConnectError::Client(Box::new(error)))
}

async fn by_file(path: &Path) -> Result<Config, KubeconfigError> {
    let kubeconfig = Kubeconfig::read_from(path)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await
}
