//! The names of this node's pods, for the agents of other nodes.
//!
//! Beside `/metrics`, `/healthz` and `/readyz` this is all that is not only for this machine, where
//! `identity.kubernetes.scope` is `node`. It answers the addresses of the cluster's nodes.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::StreamExt as _;

use crate::identity::peers::{Board, PATH, Refusal};

/// Serves [`PATH`]. The service must know its clients' addresses
/// ([`Router::into_make_service_with_connect_info`]).
pub fn router(board: Arc<Board>) -> Router {
    Router::new().route(PATH, get(names)).with_state(board)
}

async fn names(
    State(board): State<Arc<Board>>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
) -> Response {
    let lines = board.admits(client.ip()).and_then(|()| board.listen());
    match lines {
        Ok(lines) => {
            let body = Body::from_stream(lines.map(Ok::<_, Infallible>));
            ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
        }
        Err(refusal) => (status(refusal), format!("{refusal}\n")).into_response(),
    }
}

fn status(refusal: Refusal) -> StatusCode {
    match refusal {
        Refusal::Stranger => StatusCode::FORBIDDEN,
        Refusal::Closed => StatusCode::NOT_FOUND,
        Refusal::NotYet | Refusal::Full => StatusCode::SERVICE_UNAVAILABLE,
    }
}
