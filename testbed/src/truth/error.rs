//! What can go wrong while the truth is sought.

use std::{io, time::Duration};

use crate::testbed;

/// Why a measurement could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The testbed could not be laid out, or traffic could not be started.
    #[error(transparent)]
    Testbed(#[from] testbed::Error),
    /// The agent ended or refused.
    #[error("the agent {what}: {said}; see `lpm check`")]
    Agent {
        /// What it did.
        what: &'static str,
        /// What it said, or the reason.
        said: String,
    },
    /// A tool is missing or failed.
    #[error("`{tool}` failed: {reason}; install tcpdump, tshark and python3")]
    Tool {
        /// Its name.
        tool: String,
        /// What it said.
        reason: String,
    },
    /// Reading or writing failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Something that should happen did not.
    #[error("{what} did not happen within {after:?}; is the machine overloaded?")]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        after: Duration,
    },
    /// The measurement itself is not complete, so it proves nothing.
    #[error("{0}; run it again with less else on this machine")]
    Incomplete(String),
}

impl Error {
    /// For `map_err`: an error of the system, with what was tried.
    pub(super) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}
