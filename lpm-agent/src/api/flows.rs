//! Serves flows, latencies by pairs of namespaces, and links as JSON.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Query, State},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};

use super::{
    Hub, json,
    router::{blocking, failed},
    sample::SCHEMA,
};
use crate::identity::processes::Sockets;

/// Makes the router of `/flows`, `/latency` and `/links`.
pub(super) fn router(hub: Arc<Hub>) -> Router {
    Router::new()
        .route("/flows", get(flows))
        .route("/latency", get(latency))
        .route("/links", get(links))
        .with_state(hub)
}

/// Query parameters of `/api/v1/flows`.
#[derive(Debug, Deserialize)]
struct FlowsQuery {
    /// True: include idle and closed flows.
    #[serde(default)]
    all: bool,
    /// True: include the processes that hold the sockets. It takes a walk through `/proc`.
    #[serde(default)]
    processes: bool,
}

/// A list as the API serves it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Page<T> {
    /// Version of the records: [`SCHEMA`].
    pub schema: u32,
    /// The records.
    pub items: Vec<T>,
}

impl<T> Page<T> {
    fn of(items: Vec<T>) -> Self {
        Self {
            schema: SCHEMA,
            items,
        }
    }
}

async fn flows(State(hub): State<Arc<Hub>>, Query(query): Query<FlowsQuery>) -> Response {
    let flows = blocking(move || {
        let sockets = query.processes.then(Sockets::scan);
        json::flows(hub.model(), sockets.as_ref())
    })
    .await;
    match flows {
        Ok(mut flows) => {
            flows.retain(|flow| query.all || flow.active);
            Json(Page::of(flows)).into_response()
        }
        Err(error) => failed(&error),
    }
}

async fn latency(State(hub): State<Arc<Hub>>) -> Response {
    let latencies = blocking(move || json::latencies(hub.model())).await;
    Json(Page::of(latencies)).into_response()
}

async fn links(State(hub): State<Arc<Hub>>) -> Response {
    let found = blocking(move || {
        let model = hub.model();
        json::flows(model, None).map(|flows| json::links(model, &flows))
    });
    match found.await {
        Ok(links) => Json(Page::of(links)).into_response(),
        Err(error) => failed(&error),
    }
}
