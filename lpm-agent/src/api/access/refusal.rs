//! The answer to clients that may not use a path.

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use thiserror::Error;

use crate::export::http::HttpRefusal;

/// Why a client may not use a path. The text is what the client reads.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The client has not shown who it is, or its credentials are not valid: status 401.
    #[error("show valid credentials: a password, a client certificate or a bearer token")]
    Unauthorized {
        /// A user's password would do.
        basic: bool,
        /// A bearer token would do.
        bearer: bool,
    },
    /// The client may not use the path: status 403.
    #[error("{0}")]
    Forbidden(String),
    /// The request names another machine: status 421.
    #[error(
        "a loopback client must ask for localhost, 127.0.0.1 or [::1] (header Host): another name \
         may be that of a web page which was made to resolve to this machine"
    )]
    Misdirected,
    /// More requests come than the web configuration permits: status 429.
    #[error("more requests come than rate_limit of the web configuration permits")]
    TooMany,
    /// It cannot be found out now whether the client may: status 503.
    #[error("{0}; ask again in a second")]
    Busy(String),
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorized { .. } => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Self::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The reason under which the refusal is counted.
    pub(super) fn counted(&self) -> HttpRefusal {
        match self {
            Self::Unauthorized { .. } => HttpRefusal::Unauthorized,
            Self::Forbidden(_) | Self::Misdirected => HttpRefusal::Forbidden,
            Self::TooMany => HttpRefusal::Rate,
            Self::Busy(_) => HttpRefusal::Busy,
        }
    }

    /// The headers that belong to the status.
    fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let challenge = |text| (header::WWW_AUTHENTICATE, HeaderValue::from_static(text));
        match self {
            Self::Unauthorized { basic, bearer } => [
                basic.then(|| challenge("Basic realm=\"lpm\", charset=\"UTF-8\"")),
                bearer.then(|| challenge("Bearer realm=\"lpm\"")),
            ]
            .into_iter()
            .flatten()
            .collect(),
            Self::Busy(_) => vec![(header::RETRY_AFTER, HeaderValue::from_static("1"))],
            _ => Vec::new(),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status(), format!("{self}\n")).into_response();
        for (name, value) in self.headers() {
            response.headers_mut().append(name, value);
        }
        response
    }
}
