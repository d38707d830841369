//! What can go wrong with a Kubernetes for tests.

use std::{io, path::PathBuf, time::Duration};

/// Why a Kubernetes for tests could not be started or asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program is not there.
    #[error("no {program} in {places}; `cargo xtask setup --only cluster` gets it")]
    Missing {
        /// Its name.
        program: String,
        /// Where it was looked for.
        places: String,
    },
    /// A file or a process could not be made.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program failed.
    #[error("{program} failed: {reason}")]
    Program {
        /// Its name or command line.
        program: String,
        /// What it said, and where its log is.
        reason: String,
    },
    /// Something that should happen did not.
    #[error("{what} did not happen within {after:?}; {log:?} may say why")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
        /// The log of what should have done it.
        log: PathBuf,
    },
    /// The API server refused a request.
    #[error("{request}: {status}: {message}")]
    Refused {
        /// Method and path.
        request: String,
        /// Status of HTTP.
        status: u16,
        /// What the server said.
        message: String,
    },
    /// The API server or etcd did not answer.
    #[error("{request}: {reason}; is the server stopped?")]
    Unreachable {
        /// Method and path.
        request: String,
        /// What the connection said.
        reason: String,
    },
}

impl Error {
    pub(super) fn system(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System {
            what: what.into(),
            source: source.into(),
        }
    }
}
