//! Decides which clients may use which routes.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::identity::peers::NamePublisher;

/// The clients that may use a route.
#[derive(Clone, Debug)]
pub enum Access {
    /// Clients on this machine, which ask from a loopback address.
    ThisMachine,
    /// Clients on this machine and on the cluster's nodes, as far as the publisher knows them.
    Nodes(Arc<NamePublisher>),
}

impl Access {
    /// Decides whether a client may ask. The error is the text that the client gets.
    fn check(&self, client: IpAddr) -> Result<(), String> {
        match self {
            Self::ThisMachine if client.to_canonical().is_loopback() => Ok(()),
            Self::ThisMachine => {
                Err("/api is served to this machine only: use the address 127.0.0.1".to_owned())
            }
            Self::Nodes(publisher) => (publisher.admits(client)).map_err(|error| error.to_string()),
        }
    }
}

/// A layer for routes that answers other clients with status 403. The service must know its clients'
/// addresses ([`axum::Router::into_make_service_with_connect_info`]).
pub async fn guard(
    State(access): State<Access>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    match access.check(client.ip()) {
        Ok(()) => next.run(request).await,
        Err(text) => (StatusCode::FORBIDDEN, format!("{text}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_may_ask_nothing_and_nodes_for_names_only() {
        let publisher = Arc::<NamePublisher>::default();
        publisher.admit([IpAddr::from([198, 19, 0, 2])].into());
        let nodes = Access::Nodes(publisher);
        for (client, all, names) in [
            ("127.0.0.1", true, true),
            ("::1", true, true),
            ("::ffff:127.0.0.1", true, true),
            ("198.19.0.2", false, true),
            ("::ffff:198.19.0.2", false, true),
            ("198.19.0.3", false, false),
        ] {
            let address = client.parse().expect("an address");
            assert_eq!(Access::ThisMachine.check(address).is_ok(), all, "{client}");
            assert_eq!(nodes.check(address).is_ok(), names, "{client}");
        }
    }
}
