//! A client of a running agent's HTTP API.

use std::{
    io::{BufRead as _, BufReader},
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::export::http::{Page, StreamLine};

/// Longest wait for an answer of the agent, and between two lines of the stream. The agent sends a
/// line each second at least.
const PATIENCE: Duration = Duration::from_secs(10);

/// Most lines that wait to be printed.
const LINES: usize = 1024;

/// The API of one agent.
#[derive(Clone, Debug)]
pub(super) struct Agent {
    base: String,
    http: ureq::Agent,
}

impl Agent {
    /// Makes a client of the agent at a URL. `127.0.0.1:9477` is accepted, too.
    pub(super) fn new(url: &str) -> Self {
        let base = url.trim_end_matches('/');
        let base = if base.contains("://") {
            base.to_owned()
        } else {
            format!("http://{base}")
        };
        let http = ureq::Agent::config_builder()
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .build()
            .new_agent();
        Self { base, http }
    }

    /// Reads all records of a list.
    pub(super) fn list<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<Vec<T>> {
        let url = format!("{}/api/v1/{path}", self.base);
        let mut response = self
            .http
            .get(&url)
            .call()
            .map_err(|error| self.unanswered(&error))?;
        let body = response.body_mut().with_config().limit(1 << 30).reader();
        let page: Page<T> = serde_json::from_reader(BufReader::new(body))
            .with_context(|| format!("{url} does not answer as an agent of this version does"))?;
        Ok(page.items)
    }

    /// Reads the stream of samples in a thread of its own. The stream ends when the agent does.
    pub(super) fn watch(&self) -> anyhow::Result<mpsc::Receiver<anyhow::Result<StreamLine>>> {
        let url = format!("{}/api/v1/watch", self.base);
        let response = self
            .http
            .get(&url)
            .call()
            .map_err(|error| self.unanswered(&error))?;
        let (sender, lines) = mpsc::channel(LINES);
        thread::Builder::new()
            .name("lpm-client".to_owned())
            .spawn(move || {
                for line in BufReader::new(response.into_body().into_reader()).lines() {
                    let line = line.map_err(anyhow::Error::from).and_then(|line| {
                        serde_json::from_str(&line).with_context(|| format!("not a sample: {line}"))
                    });
                    if sender.blocking_send(line).is_err() {
                        break;
                    }
                }
            })?;
        Ok(lines)
    }

    fn unanswered(&self, error: &ureq::Error) -> anyhow::Error {
        anyhow!(
            "no agent answers at {}: {error}; start one with `lpm run`, or give its address with \
             --agent",
            self.base
        )
    }
}
