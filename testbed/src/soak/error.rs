//! What can go wrong while an agent soaks.

use std::io;

use crate::{kubernetes, testbed, truth};

/// Why a soak could not be carried to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The testbed could not be laid out, or traffic could not be started.
    #[error(transparent)]
    Testbed(#[from] testbed::Error),
    /// The API server could not be started or asked.
    #[error(transparent)]
    Kubernetes(#[from] kubernetes::Error),
    /// An agent ended, or its samples could not be judged.
    #[error(transparent)]
    Truth(#[from] truth::Error),
    /// Reading or writing failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// Something of the load, or of an agent, did not happen.
    #[error("{0}; see what the agents said above")]
    Broken(String),
}

impl Error {
    /// For `map_err`: an error of the system, with what was tried.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
