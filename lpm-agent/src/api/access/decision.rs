//! Who a client is, and whether it may use a path.

use std::{sync::Arc, time::Instant};

use axum::http::{HeaderMap, Uri, request::Parts};

use super::{Access, InForce, Permission, Refusal};
use crate::api::{
    Peer,
    auth::{Evidence, PasswordVerdict, ReviewVerdict, credentials::Credentials, is_this_machine},
};

/// How a client has shown who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// Not at all: the path is open.
    Nothing,
    /// By a loopback address, and a header Host that names this machine.
    Loopback,
    /// By the credentials of its process at the Unix socket.
    Unix,
    /// By a client certificate.
    Certificate,
    /// By a user's password.
    Password,
    /// By a bearer token of the configuration.
    Token,
    /// By a bearer token of the cluster.
    Kubernetes,
    /// By the address of a node of the cluster.
    Node,
}

/// Who asks, and how that was found out. A request that passes carries it in its extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// How the client has shown who it is.
    pub means: Means,
    /// Name of the client: a user, a holder of a token, or a name of a certificate. None: it has none.
    pub name: Option<Arc<str>>,
}

impl Identity {
    fn by(means: Means) -> Self {
        Self { means, name: None }
    }

    fn named(means: Means, name: impl Into<Arc<str>>) -> Self {
        let name = Some(name.into());
        Self { means, name }
    }
}

impl Access {
    /// Decides about a request.
    pub(super) async fn admit(
        &self,
        in_force: &InForce,
        peer: Peer,
        evidence: &Evidence,
        request: &Parts,
    ) -> Result<Identity, Refusal> {
        let need = Permission::of(request.uri.path());
        if need == Permission::Open {
            return Ok(Identity::by(Means::Nothing));
        }
        if let Peer::Unix { uid, .. } = peer {
            return self.by_process(uid, evidence);
        }
        if in_force
            .bucket
            .as_ref()
            .is_some_and(|bucket| !bucket.take(Instant::now()))
        {
            return Err(Refusal::TooMany);
        }
        if need == Permission::Metrics && !self.metrics_need_credentials(in_force) {
            return Ok(Identity::by(Means::Nothing));
        }
        match Credentials::of(&request.headers) {
            Credentials::Basic(name, password) if !in_force.web.users.is_empty() => {
                self.by_password(in_force, need, &name, &password).await
            }
            Credentials::Bearer(token) if self.knows_tokens() => {
                self.by_token(in_force, &token, request.uri.path()).await
            }
            // As in exporter-toolkit, credentials that nobody asks for are not looked at.
            _ => self.by_origin(
                in_force,
                need,
                peer,
                evidence,
                &request.headers,
                &request.uri,
            ),
        }
    }

    fn metrics_need_credentials(&self, in_force: &InForce) -> bool {
        self.auth.metrics || !in_force.web.users.is_empty()
    }

    fn knows_tokens(&self) -> bool {
        !self.auth.tokens.is_empty() || self.reviews.is_some()
    }

    fn by_process(&self, uid: u32, evidence: &Evidence) -> Result<Identity, Refusal> {
        if uid == 0 || uid == self.user || evidence.is_member {
            return Ok(Identity::named(Means::Unix, uid.to_string()));
        }
        Err(Refusal::Forbidden(
            "this socket is for root, the agent's own user and the group of the key socket.group"
                .to_owned(),
        ))
    }

    async fn by_password(
        &self,
        in_force: &InForce,
        need: Permission,
        name: &str,
        password: &[u8],
    ) -> Result<Identity, Refusal> {
        match self
            .passwords
            .check(&in_force.web.users, name, password)
            .await
        {
            PasswordVerdict::Busy => Err(Refusal::Busy(
                "too many passwords wait to be checked".to_owned(),
            )),
            PasswordVerdict::Wrong => Err(self.unauthorized(in_force)),
            PasswordVerdict::Right => {
                if need == Permission::Metrics || self.auth.users.iter().any(|user| user == name) {
                    return Ok(Identity::named(Means::Password, name));
                }
                Err(Refusal::Forbidden(
                    "this user may read /metrics only; the key auth.users lists those who may read \
                     /api"
                        .to_owned(),
                ))
            }
        }
    }

    async fn by_token(
        &self,
        in_force: &InForce,
        token: &str,
        path: &str,
    ) -> Result<Identity, Refusal> {
        if let Some(holder) = in_force.tokens.holder(token) {
            return Ok(Identity::named(Means::Token, holder));
        }
        let Some(reviews) = &self.reviews else {
            return Err(self.unauthorized(in_force));
        };
        let path = reviewed_path(path);
        match reviews.check(token, &path).await {
            Ok(ReviewVerdict::Allowed(name)) => Ok(Identity::named(Means::Kubernetes, name)),
            Ok(ReviewVerdict::Forbidden(name)) => Err(Refusal::Forbidden(format!(
                "{name} may not get {path}: bind a ClusterRole with this path in nonResourceURLs \
                 and the verb get"
            ))),
            Ok(ReviewVerdict::Unknown) => Err(self.unauthorized(in_force)),
            Err(reason) => {
                tracing::error!("a bearer token cannot be reviewed: {reason}");
                Err(Refusal::Busy("the token cannot be reviewed now".to_owned()))
            }
        }
    }

    /// By the connection: the client's certificate, a loopback address, or a node's address.
    fn by_origin(
        &self,
        in_force: &InForce,
        need: Permission,
        peer: Peer,
        evidence: &Evidence,
        headers: &HeaderMap,
        uri: &Uri,
    ) -> Result<Identity, Refusal> {
        // As in exporter-toolkit, a certificate does not replace the password.
        let has_users = !in_force.web.users.is_empty();
        if let Some(certificate) = evidence.certificate.as_ref().filter(|_| !has_users) {
            if let Some(name) = certificate.name_of(&self.auth.certificates) {
                return Ok(Identity::named(Means::Certificate, name.as_str()));
            }
            if need == Permission::Metrics {
                return Ok(Identity::by(Means::Certificate));
            }
        }
        let address = peer.address();
        let is_loopback = address.is_some_and(|address| address.is_loopback());
        let is_node = match (need, address) {
            (Permission::Names, Some(address)) => Some(self.nodes.admits(address)),
            _ => None,
        };
        let by_loopback = need == Permission::Read && self.auth.loopback && !has_users;
        match is_node {
            Some(Ok(())) if !is_loopback => return Ok(Identity::by(Means::Node)),
            Some(Err(stranger)) if !self.has_challenge(in_force) => {
                return Err(Refusal::Forbidden(stranger.to_string()));
            }
            _ => {}
        }
        if is_loopback && (by_loopback || is_node.is_some()) {
            if is_this_machine(headers, uri) {
                return Ok(Identity::by(Means::Loopback));
            }
            return Err(Refusal::Misdirected);
        }
        Err(self.unauthorized(in_force))
    }

    fn has_challenge(&self, in_force: &InForce) -> bool {
        self.knows_tokens() || !in_force.web.users.is_empty()
    }

    /// The refusal of a client that has not shown who it is.
    fn unauthorized(&self, in_force: &InForce) -> Refusal {
        if !self.has_challenge(in_force) {
            return Refusal::Forbidden(
                "/api is served to this machine only: use the address 127.0.0.1 or the agent's Unix \
                 socket; the configuration's section auth lets others in"
                    .to_owned(),
            );
        }
        Refusal::Unauthorized {
            basic: !in_force.web.users.is_empty(),
            bearer: self.knows_tokens(),
        }
    }
}

/// The path that the API server is asked about. Each account of a cluster may get `/api/*` of the API
/// server (the role `system:discovery`), which must not open the agent's. So `/lpm` stands before all
/// paths but `/metrics`.
fn reviewed_path(path: &str) -> String {
    match path {
        "/metrics" => path.to_owned(),
        _ => format!("/lpm{path}"),
    }
}
