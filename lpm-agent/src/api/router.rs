//! All routes of the agent.
//!
//! `/metrics`, `/healthz` and `/readyz` contain no address and may be open. One layer around all routes
//! decides who may ask ([`access`](super::access)).

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};

use super::{
    Hub,
    access::{Access, guard},
    flows, metrics, names, watch,
};
use crate::{
    active::agent::figures::Figures,
    export::{
        Metrics,
        http::{HttpCounts, HttpRefusal},
    },
    identity::peers::NamePublisher,
};

/// State that the routes read.
#[derive(Debug)]
pub struct App {
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The samples, and the model. None: the agent only probes.
    pub hub: Option<Arc<Hub>>,
    /// The names that other nodes' agents may ask for.
    pub nodes: Arc<NamePublisher>,
    /// The figures of the agent's own probes. None: it does not probe.
    pub probes: Option<Arc<Figures>>,
    /// Counts what is refused.
    pub counts: Arc<HttpCounts>,
    /// True once every existing interface has been handled.
    pub ready: Arc<AtomicBool>,
    /// Decides who may ask.
    pub access: Arc<Access>,
}

/// The routes of the agent's listeners.
#[derive(Debug)]
pub struct Routes {
    /// All.
    pub all: Router,
    /// `/metrics` only, from the same pages.
    pub metrics: Router,
}

/// Joins the routers of all paths.
#[must_use]
pub fn routes(app: App) -> Routes {
    let api = flows::router(app.hub.as_ref(), &app.counts, app.probes);
    let api = match app.hub {
        Some(hub) => api.merge(watch::router(hub, Arc::clone(&app.counts))),
        None => api,
    };
    let metrics = metrics::router(app.metrics, app.counts);
    let guarded = |routes: Router| {
        let access = Arc::clone(&app.access);
        routes.layer(middleware::from_fn_with_state(access, guard))
    };
    let all = metrics
        .clone()
        .merge(health(app.ready))
        .nest("/api/v1", api)
        .merge(names::router(app.nodes));
    Routes {
        all: guarded(all),
        metrics: guarded(metrics),
    }
}

/// Makes the router of `/healthz` and `/readyz`.
pub fn health(is_ready: Arc<AtomicBool>) -> Router {
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

/// Answers with status 503, and when to ask again.
pub(super) fn busy(error: &dyn std::error::Error, counts: &HttpCounts) -> Response {
    counts.refuse(HttpRefusal::Busy);
    unavailable(format!("{error}\n"))
}

/// Answers with status 503 and this text.
pub(super) fn unavailable(text: impl IntoResponse) -> Response {
    let again = [(header::RETRY_AFTER, "1")];
    (StatusCode::SERVICE_UNAVAILABLE, again, text).into_response()
}

/// Runs work that takes milliseconds of a CPU on a thread of its own, outside the server's threads.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
