//! Decides which clients may use which routes.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::Peer;
use crate::identity::peers::NamePublisher;

/// The clients that may use a route.
#[derive(Clone, Debug)]
pub enum Access {
    /// Clients on this machine, which ask from a loopback address or by a Unix socket.
    ThisMachine,
    /// Clients on this machine and on the cluster's nodes, as far as the publisher knows them.
    Nodes(Arc<NamePublisher>),
}

impl Access {
    /// Decides whether a client may ask. The error is the text that the client gets.
    fn check(&self, client: &Peer) -> Result<(), String> {
        match (self, client.address()) {
            (_, None) => Ok(()),
            (Self::ThisMachine, Some(address)) if address.is_loopback() => Ok(()),
            (Self::ThisMachine, Some(_)) => {
                Err("/api is served to this machine only: use the address 127.0.0.1".to_owned())
            }
            (Self::Nodes(publisher), Some(address)) => {
                (publisher.admits(address)).map_err(|error| error.to_string())
            }
        }
    }
}

/// A layer for routes that answers other clients with status 403. Each request must carry its
/// [`Peer`], as those of [`Door::serve`](super::Door::serve) do.
pub async fn guard(State(access): State<Access>, request: Request, next: Next) -> Response {
    let checked = match request.extensions().get::<Peer>() {
        Some(client) => access.check(client),
        None => Err("the server does not know who asks".to_owned()),
    };
    match checked {
        Ok(()) => next.run(request).await,
        Err(text) => (StatusCode::FORBIDDEN, format!("{text}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

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
            let peer = Peer::Tcp(SocketAddr::new(client.parse().expect("an address"), 1));
            assert_eq!(Access::ThisMachine.check(&peer).is_ok(), all, "{client}");
            assert_eq!(nodes.check(&peer).is_ok(), names, "{client}");
        }
    }
}
