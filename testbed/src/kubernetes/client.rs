//! Requests in JSON over plain HTTP: to etcd, and to the API server through `kubectl proxy`.

use std::{sync::LazyLock, time::Duration};

use serde_json::Value;

use super::{Error, site::Site};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// The longest answer that is read, in bytes: that of 100,000 pods.
const LARGEST: u64 = 1 << 30;

static HERE: LazyLock<ureq::Agent> = LazyLock::new(agent);

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE))
        .build()
        .into()
}

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
pub(super) fn call(
    site: &Site,
    method: &str,
    url: &str,
    body: Option<(&str, &Value)>,
) -> Result<Answer, Error> {
    let outcome = match &site.netns {
        None => send(&HERE, method, url, body),
        // A connection kept open would be to the same address somewhere else.
        Some(netns) => netns
            .run_in(|| send(&agent(), method, url, body))
            .unwrap_or_else(|error| Err(error.to_string())),
    };
    outcome.map_err(|reason| Error::Unreachable {
        request: format!("{method} {url}"),
        reason,
    })
}

fn send(
    agent: &ureq::Agent,
    method: &str,
    url: &str,
    body: Option<(&str, &Value)>,
) -> Result<Answer, String> {
    let builder = ureq::http::Request::builder().method(method).uri(url);
    let response = match body {
        None => {
            let request = builder.body(()).map_err(|error| error.to_string())?;
            agent.run(request)
        }
        Some((kind, body)) => {
            let builder = builder.header("Content-Type", kind);
            let request = builder.body(body.to_string());
            agent.run(request.map_err(|error| error.to_string())?)
        }
    };
    let response = response.map_err(|error| error.to_string())?;
    let status = response.status().as_u16();
    let body = response.into_body().into_with_config().limit(LARGEST);
    let text = body.read_to_string().map_err(|error| error.to_string())?;
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Ok(Answer { status, body })
}
