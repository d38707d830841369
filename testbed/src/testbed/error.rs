//! What can go wrong while a testbed is laid out.

use std::{io, time::Duration};

/// Why a testbed could not be laid out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tool of iproute2 or ethtool refused or is missing.
    #[error("`{command}` failed: {reason}; the testbed needs root, iproute2 and ethtool")]
    Command {
        /// The command line, or the line of the batch.
        command: String,
        /// What it printed, or why it did not start.
        reason: String,
    },
    /// The kernel refused something.
    #[error("{what}: {source}; {remedy}")]
    System {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: io::Error,
        /// What to do about it.
        remedy: &'static str,
    },
    /// Something that should happen by itself did not.
    #[error("{what} did not happen within {after:?}; inspect the namespaces with `ip netns`")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long it was waited for.
        after: Duration,
    },
}

impl Error {
    /// A refusal of the kernel, with the remedy that nearly always fits.
    pub(crate) fn system(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System {
            what: what.into(),
            source: source.into(),
            remedy: "run as root on a kernel with namespaces, veth and packet sockets",
        }
    }
}
