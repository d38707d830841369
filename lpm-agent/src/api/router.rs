//! All routes of the agent.
//!
//! `/metrics`, `/healthz` and `/readyz` contain no address and may be open. Everything below `/api`
//! answers loopback clients only, except the names that agents exchange ([`names`]).

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};

use super::{
    Hub,
    access::{Access, guard},
    flows, metrics, names, watch,
};
use crate::export::Metrics;

/// State that the routes read.
#[derive(Debug)]
pub struct App {
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The samples, and the model.
    pub hub: Arc<Hub>,
    /// True once every existing interface has been handled.
    pub ready: Arc<AtomicBool>,
}

/// Joins the routers of all paths.
pub fn router(app: App) -> Router {
    let names = names::router(Arc::clone(app.hub.model().registry().publisher()));
    let api = flows::router(Arc::clone(&app.hub))
        .merge(watch::router(app.hub))
        .layer(middleware::from_fn_with_state(Access::ThisMachine, guard));
    metrics::router(app.metrics)
        .merge(health(app.ready))
        .nest("/api/v1", api)
        .merge(names)
}

/// Makes the router of `/healthz` and `/readyz`.
fn health(is_ready: Arc<AtomicBool>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(is_ready)
}

async fn ready(State(is_ready): State<Arc<AtomicBool>>) -> Response {
    if is_ready.load(Ordering::Acquire) {
        (StatusCode::OK, "ready\n").into_response()
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the agent has not gone through all interfaces yet\n",
        )
            .into_response()
    }
}

/// Answers with status 500.
pub(super) fn failed(error: &dyn std::error::Error) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
}

/// Runs work that takes milliseconds of a CPU on a thread of its own, outside the server's threads.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
