//! Requests in JSON over plain HTTP: to etcd, and to the API server through `kubectl proxy`.

use std::{sync::LazyLock, time::Duration};

use serde_json::Value;

use super::Error;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

static AGENT: LazyLock<ureq::Agent> = LazyLock::new(|| {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE))
        .build()
        .into()
});

/// What a server answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status of HTTP.
    pub status: u16,
    /// The body; a string if it is not JSON.
    pub body: Value,
}

impl Answer {
    /// The body, unless the server refused.
    pub(super) fn good(self, request: &str) -> Result<Value, Error> {
        if (200..300).contains(&self.status) {
            return Ok(self.body);
        }
        let said = self.body["message"].as_str().map(str::to_owned);
        Err(Error::Refused {
            request: request.to_owned(),
            status: self.status,
            message: said.unwrap_or_else(|| self.body.to_string()),
        })
    }
}

/// One request, with a content type and a body if there is one.
pub(super) fn call(method: &str, url: &str, body: Option<(&str, &Value)>) -> Result<Answer, Error> {
    let failed = |reason: String| Error::Unreachable {
        request: format!("{method} {url}"),
        reason,
    };
    let builder = ureq::http::Request::builder().method(method).uri(url);
    let sent = match body {
        None => builder
            .body(())
            .map_err(|error| failed(error.to_string()))
            .and_then(|request| {
                AGENT
                    .run(request)
                    .map_err(|error| failed(error.to_string()))
            })?,
        Some((kind, body)) => builder
            .header("Content-Type", kind)
            .body(body.to_string())
            .map_err(|error| failed(error.to_string()))
            .and_then(|request| {
                AGENT
                    .run(request)
                    .map_err(|error| failed(error.to_string()))
            })?,
    };
    let status = sent.status().as_u16();
    let text = sent
        .into_body()
        .into_with_config()
        .limit(1 << 30)
        .read_to_string()
        .map_err(|error| failed(error.to_string()))?;
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Ok(Answer { status, body })
}
