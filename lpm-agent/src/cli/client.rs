//! A client of a running agent's HTTP API.

use std::{
    fmt,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::unix::UnixConnector;
use crate::api::{Page, StreamLine};

/// What stands before the path of a Unix socket in the address of an agent.
const UNIX: &str = "unix:";

/// Longest wait for an answer of the agent, and between two lines of the stream. The agent sends a
/// line each second at least.
const PATIENCE: Duration = Duration::from_secs(10);

/// Most lines that wait to be printed.
const LINES: usize = 1024;

/// Where an agent serves its API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// A URL.
    Url(String),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Reads an address: `http://127.0.0.1:9477`, `127.0.0.1:9477`, or `unix:/run/lpm/lpm.sock`.
    pub(super) fn of(text: &str) -> Self {
        if let Some(path) = text.strip_prefix(UNIX) {
            // `unix:///run/lpm/lpm.sock` is the same path.
            let path = path.strip_prefix("//").unwrap_or(path);
            return Self::Unix(path.into());
        }
        let url = text.trim_end_matches('/');
        Self::Url(if url.contains("://") {
            url.to_owned()
        } else {
            format!("http://{url}")
        })
    }

    /// The path of the Unix socket. None: it is a URL.
    pub(super) fn socket(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) => Some(path),
            Self::Url(_) => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => f.write_str(url),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// The API of one agent.
#[derive(Clone, Debug)]
pub(super) struct Agent {
    address: Address,
    http: ureq::Agent,
}

impl Agent {
    /// Makes a client of the agent at an address.
    pub(super) fn new(address: Address) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .build();
        let http = match address.socket() {
            Some(path) => {
                let resolver = ureq::unversioned::resolver::DefaultResolver::default();
                ureq::Agent::with_parts(config, UnixConnector::to(path), resolver)
            }
            None => config.new_agent(),
        };
        Self { address, http }
    }

    /// The URL of a path of the API.
    fn url(&self, path: &str) -> String {
        let base = match &self.address {
            Address::Url(url) => url,
            // Nobody looks it up: the connection goes to the socket.
            Address::Unix(_) => "http://127.0.0.1",
        };
        format!("{base}/api/v1/{path}")
    }

    /// Reads all records of a list.
    pub(super) fn list<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<Vec<T>> {
        let url = self.url(path);
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
        let url = self.url("watch");
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
            self.address
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_urls_or_sockets() {
        for (text, shown) in [
            ("127.0.0.1:9477", "http://127.0.0.1:9477"),
            ("http://127.0.0.1:9477/", "http://127.0.0.1:9477"),
            ("unix:/run/lpm/lpm.sock", "unix:/run/lpm/lpm.sock"),
            ("unix:///run/lpm/lpm.sock", "unix:/run/lpm/lpm.sock"),
        ] {
            assert_eq!(Address::of(text).to_string(), shown);
        }
    }
}
