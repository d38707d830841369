//! Serves the metrics in the format that the client prefers.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tower_http::compression::CompressionLayer;

use super::router::{blocking, failed};
use crate::export::{
    Metrics,
    negotiate::{self, Format},
};

/// Makes the router of `/metrics`.
pub(super) fn router(metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/metrics", get(page).layer(CompressionLayer::new()))
        .with_state(metrics)
}

async fn page(State(metrics): State<Arc<Metrics>>, headers: HeaderMap) -> Response {
    let accept = headers.get_all(header::ACCEPT).into_iter();
    // A cache must know which request header the answer depends on.
    let vary = (header::VARY, "Accept");
    let Some(format) = negotiate::format(accept.map(HeaderValue::as_bytes)) else {
        let served = Format::ALL.map(Format::content_type).join("\n");
        let text =
            format!("the header Accept excludes every format that is served here:\n{served}\n");
        return (StatusCode::NOT_ACCEPTABLE, [vary], text).into_response();
    };
    let encoded = blocking(move || metrics.encode(format)).await;
    match encoded {
        Ok(body) => {
            let kind = (header::CONTENT_TYPE, format.content_type());
            ([kind, vary], body).into_response()
        }
        Err(error) => failed(&error),
    }
}
