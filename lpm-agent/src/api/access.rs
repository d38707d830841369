//! Decides which clients may use which paths: the one door to all that the agent serves.
//!
//! `/healthz` and `/readyz` are open. `/metrics` is open unless the configuration asks for
//! credentials. All other paths need a permission, also those that do not exist. [`auth`](super::auth)
//! finds out who a client is.

mod decision;
mod refusal;
#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use nix::unistd::getuid;
use rustls::ServerConfig;
use thiserror::Error;

use super::{
    Peer,
    auth::{Bucket, Evidence, Passwords, Reviews, Stamps, TokenError, Tokens},
    web_config::{WebConfig, WebConfigError},
};
use crate::{
    config::{Auth, Config, Scope},
    export::http::HttpCounts,
    identity::peers::{NamePublisher, PATH},
    kube::{self, ConnectError, Reviewer},
};

pub use decision::{Identity, Means};
pub use refusal::Refusal;

/// What a path asks of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Nothing: `/healthz` and `/readyz` show no name and no address.
    Open,
    /// To read the metrics.
    Metrics,
    /// To read the names of this node's pods, as agents of other nodes do.
    Names,
    /// To read flows, samples and links, with addresses.
    Read,
}

impl Permission {
    /// The permission that a path asks for.
    #[must_use]
    pub fn of(path: &str) -> Self {
        match path {
            "/healthz" | "/readyz" => Self::Open,
            "/metrics" => Self::Metrics,
            PATH => Self::Names,
            _ => Self::Read,
        }
    }
}

/// Why the agent cannot find out who its clients are.
#[derive(Debug, Error)]
pub enum AccessError {
    /// The web configuration cannot be used.
    #[error(transparent)]
    Web(#[from] WebConfigError),
    /// A token cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// There is no way to the API server.
    #[error("auth.kubernetes: {0}; or set auth.kubernetes.enabled to false")]
    Kubernetes(#[from] ConnectError),
    /// Agents ask each other over plain HTTP.
    #[error(
        "web_config has a tls_server_config, and identity.kubernetes.scope is node: the agents ask \
         each other for names over plain HTTP; set the scope to cluster, or remove \
         tls_server_config"
    )]
    NodeScope,
}

/// What is read from files, and read again when they change.
#[derive(Debug, Default)]
struct InForce {
    web: WebConfig,
    tokens: Tokens,
    /// None: requests are not limited.
    bucket: Option<Bucket>,
}

/// Decides which clients may use which paths.
#[derive(Debug)]
pub struct Access {
    auth: Auth,
    web_config: Option<PathBuf>,
    scope: Scope,
    /// Knows the addresses of the cluster's nodes.
    nodes: Arc<NamePublisher>,
    counts: Arc<HttpCounts>,
    /// The agent's own user.
    user: u32,
    passwords: Passwords,
    /// None: the API server is not asked.
    reviews: Option<Reviews>,
    in_force: Mutex<Arc<InForce>>,
    files: Mutex<Stamps>,
    /// Why the files could not be used at the last look. None: they could.
    failed: Mutex<Option<String>>,
}

impl Access {
    /// Reads the files that the configuration names. What is refused is counted.
    pub async fn new(config: &Config, counts: Arc<HttpCounts>) -> Result<Self, AccessError> {
        let mut access = Self {
            auth: config.auth.clone(),
            web_config: config.web_config.clone(),
            scope: config.identity.kubernetes.scope,
            nodes: Arc::default(),
            counts,
            user: getuid().as_raw(),
            passwords: Passwords::default(),
            reviews: None,
            in_force: Mutex::default(),
            files: Mutex::default(),
            failed: Mutex::default(),
        };
        access.read()?;
        let asked = &config.auth.kubernetes;
        if asked.enabled {
            let kubeconfig = config.identity.kubernetes.kubeconfig.as_deref();
            let reviewer = Reviewer::new(kube::connect(kubeconfig).await?);
            access.reviews = Some(Reviews::new(reviewer, asked.audiences.clone()));
        }
        Ok(access)
    }

    /// Adds the publisher that knows the addresses of the cluster's nodes.
    #[must_use]
    pub fn with_nodes(mut self, nodes: Arc<NamePublisher>) -> Self {
        self.nodes = nodes;
        self
    }

    /// Reads the files again if one has changed, or could not be used at the last look. If one cannot
    /// be used, what was in force stays.
    pub fn reload(&self) {
        let has_failed = lock(&self.failed).is_some();
        if !has_failed && lock(&self.files).changed().is_none() {
            return;
        }
        let failure = self.read().err().map(|error| error.to_string());
        let before = std::mem::replace(&mut *lock(&self.failed), failure.clone());
        match failure {
            None => tracing::info!("the web configuration and the tokens are read again"),
            Some(failure) if before.as_ref() != Some(&failure) => {
                tracing::error!("certificates, users and tokens stay as they were: {failure}");
            }
            Some(_) => {}
        }
    }

    fn read(&self) -> Result<(), AccessError> {
        let mut web = self.in_force().web.clone();
        // Which files there are is known once they were read. Those that changed meanwhile must be
        // found at the next look, so their stamps are taken before.
        for _ in 0..2 {
            *lock(&self.files) = self.stamps(&web);
            let now = match &self.web_config {
                Some(path) => WebConfig::read(path)?,
                None => WebConfig::default(),
            };
            let has_the_same = now.files() == web.files();
            web = now;
            if has_the_same {
                break;
            }
        }
        if web.is_tls() && self.scope == Scope::Node {
            return Err(AccessError::NodeScope);
        }
        let tokens = Tokens::read(&self.auth.tokens)?;
        let bucket = web
            .rate_limit
            .map(|limit| Bucket::new(limit, Instant::now()));
        *lock(&self.in_force) = Arc::new(InForce {
            web,
            tokens,
            bucket,
        });
        Ok(())
    }

    fn stamps(&self, web: &WebConfig) -> Stamps {
        let tokens = self
            .auth
            .tokens
            .iter()
            .filter_map(|token| token.file.as_deref());
        let named = web.files().iter().map(PathBuf::as_path);
        let web_config = self.web_config.as_deref();
        Stamps::of(web_config.into_iter().chain(named).chain(tokens))
    }

    fn in_force(&self) -> Arc<InForce> {
        Arc::clone(&lock(&self.in_force))
    }

    /// Settings of TLS for a new connection. None: plain HTTP.
    #[must_use]
    pub fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.in_force().web.tls.clone()
    }
}

/// A layer for all routes. Each request must carry its [`Peer`] in its extensions, and the
/// [`Evidence`] of its connection, if there is any. What passes carries its [`Identity`].
pub async fn guard(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let Some(peer) = parts.extensions.get::<Peer>().copied() else {
        return Refusal::Forbidden("the server does not know who asks".to_owned()).into_response();
    };
    let evidence = parts.extensions.get::<Evidence>().cloned();
    let evidence = evidence.unwrap_or_default();
    let in_force = access.in_force();
    let admitted = access.admit(&in_force, peer, &evidence, &parts).await;
    let mut response = match admitted {
        Ok(who) => {
            parts.extensions.insert(who);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(refusal) => {
            access.counts.refuse(refusal.counted());
            tracing::debug!(?peer, path = parts.uri.path(), %refusal, "refused");
            refusal.into_response()
        }
    };
    for (name, value) in &in_force.web.headers {
        response.headers_mut().insert(name, value.clone());
    }
    response
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
