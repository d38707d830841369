//! The web configuration file of Prometheus' exporters: TLS, client certificates, users with
//! passwords, response headers and a limit of requests.
//!
//! The format is that of prometheus/exporter-toolkit (`docs/web-configuration.md` there). Each of its
//! keys takes effect, or is refused with its line and the reason. `docs/securing.md` lists the keys
//! that are refused.

mod error;
mod file;
mod http;
mod suites;
mod tls;
mod users;
mod verifier;

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::http::{HeaderName, HeaderValue};
use rustls::ServerConfig;

pub use error::WebConfigError;
pub(super) use verifier::has_name;

use crate::yaml;
use file::{File, Place};

/// A limit of requests: a token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RateLimit {
    /// One request is permitted per interval.
    pub(super) interval: Duration,
    /// Number of requests that are permitted at once after a pause.
    pub(super) burst: u32,
}

/// The content of a web configuration file, checked, with the certificates that it names.
#[derive(Clone, Default)]
pub struct WebConfig {
    /// Settings of TLS. None: plain HTTP.
    pub(super) tls: Option<Arc<ServerConfig>>,
    /// Headers of every response.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// Users, and the bcrypt hashes of their passwords.
    pub(super) users: BTreeMap<String, String>,
    /// None: requests are not limited.
    pub(super) rate_limit: Option<RateLimit>,
    /// The files that the file names.
    files: Vec<PathBuf>,
}

impl WebConfig {
    /// Reads a file and the files that it names. Their relative paths start at its directory.
    pub fn read(path: &Path) -> Result<Self, WebConfigError> {
        let text = fs::read_to_string(path).map_err(|source| WebConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Reads the text of a file. `path` is for messages, and its directory for relative paths.
    fn parse(text: &str, path: &Path) -> Result<Self, WebConfigError> {
        let file: Option<File> = yaml::read(text).map_err(|reason| WebConfigError::Syntax {
            path: path.to_owned(),
            reason,
        })?;
        let file = file.unwrap_or_default();
        let place = Place(path);
        let (tls, files) = match &file.tls_server_config {
            Some(keys) => tls::settings(keys, place)?,
            None => (None, Vec::new()),
        };
        let http = file.http_server_config.unwrap_or_default();
        Ok(Self {
            tls,
            headers: http::headers(&http, place)?,
            users: users::users(file.basic_auth_users.unwrap_or_default(), place)?,
            rate_limit: http::rate_limit(&file.rate_limit.unwrap_or_default(), place)?,
            files,
        })
    }

    /// The files that the file names: certificates, keys and authorities.
    pub(super) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// True if the port speaks TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The number of users.
    #[must_use]
    pub fn users(&self) -> usize {
        self.users.len()
    }
}

impl fmt::Debug for WebConfig {
    /// Shows no key and no password's hash.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebConfig")
            .field("tls", &self.is_tls())
            .field("users", &self.users.keys())
            .field("headers", &self.headers)
            .field("rate_limit", &self.rate_limit)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
