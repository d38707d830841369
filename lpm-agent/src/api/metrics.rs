//! Serves the metrics in the format that the client prefers.

use std::sync::Arc;

use axum::{
    Extension, Router,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::{
    Peer,
    pages::{Form, PageError, Pages},
    pieces::PiecesBody,
    router::{busy, failed},
};
use crate::export::{
    Metrics,
    http::HttpCounts,
    negotiate::{self, Format},
};

/// What the metrics are served from.
#[derive(Clone, Debug)]
struct Served {
    pages: Arc<Pages>,
    counts: Arc<HttpCounts>,
}

/// Makes the router of `/metrics`.
pub(super) fn router(metrics: Arc<Metrics>, counts: Arc<HttpCounts>) -> Router {
    let pages = Pages::new(metrics);
    Router::new()
        .route("/metrics", get(page))
        .with_state(Served { pages, counts })
}

/// Answers with a page. Clients that ask in the same second share it, unless one of this machine
/// asks for its own by `Cache-Control: no-cache` (RFC 9111 section 5.2.1.4).
async fn page(
    State(Served { pages, counts }): State<Served>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Response {
    // A cache must know which request headers the answer depends on.
    let vary = (header::VARY, "Accept, Accept-Encoding");
    let Some(format) = negotiate::format(lines(&headers, header::ACCEPT)) else {
        let served = Format::ALL.map(Format::content_type).join("\n");
        let text =
            format!("the header Accept excludes every format that is served here:\n{served}\n");
        return (StatusCode::NOT_ACCEPTABLE, [vary], text).into_response();
    };
    let gzip = negotiate::gzip(lines(&headers, header::ACCEPT_ENCODING));
    let fresh = peer.is_here() && negotiate::no_cache(lines(&headers, header::CACHE_CONTROL));
    match pages.get(Form { format, gzip }, fresh).await {
        Ok(page) => {
            let kind = (header::CONTENT_TYPE, format.content_type());
            let encoding = gzip.then_some([(header::CONTENT_ENCODING, "gzip")]);
            let body = PiecesBody::body(page, counts, None);
            let response = ([kind, vary], body);
            match encoding {
                Some(encoding) => (encoding, response).into_response(),
                None => response.into_response(),
            }
        }
        Err(PageError::Metrics(error)) => failed(&*error),
        Err(error @ PageError::Busy) => busy(&error, &counts),
    }
}

/// The lines of a header.
fn lines(headers: &HeaderMap, name: header::HeaderName) -> impl Iterator<Item = &[u8]> {
    headers.get_all(name).into_iter().map(HeaderValue::as_bytes)
}
