//! The agents of other nodes: which of them are called, and how.
//!
//! An agent answers with an endless stream of lines of JSON ([`MeshLine`]). It sends a line at least
//! every [`HEARTBEAT`]. An agent that sends nothing for [`LEASE`] is called again from the beginning,
//! and its earlier lines are not believed any more. [`subscribe`] calls one agent. [`Agents`] is the
//! table of all that are called. The rooms above decide what the lines mean.

mod agents;
mod lines;
mod subscribe;

use std::{net::IpAddr, sync::Arc, time::Duration};

use thiserror::Error;
use tokio::task::AbortHandle;

pub(crate) use agents::{Agents, Peer};
pub(crate) use lines::{Lines, MeshLine};
pub(crate) use subscribe::{Target, subscribe};

/// Interval at which an agent says that its lines still hold.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(1);

/// Time for which an agent's lines are believed after it was last heard.
pub(crate) const LEASE: Duration = Duration::from_secs(3);

/// The agent of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Agent {
    /// Name of the agent's node.
    pub(crate) node: Arc<str>,
    /// Address of the agent.
    pub(crate) address: IpAddr,
}

/// A connection to an agent. It ends when this value is dropped.
#[derive(Debug)]
pub(crate) struct PeerConnection(pub(crate) AbortHandle);

impl Drop for PeerConnection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why an agent does not answer.
#[derive(Debug, Error)]
pub(crate) enum Trouble {
    /// There is no connection, or it broke.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// The agent has not sent anything for the time of a lease.
    #[error("it has not sent anything")]
    Silent,
    /// The agent refuses, or cannot answer.
    #[error("it answers {0}")]
    Refused(String),
    /// The agent sends lines that are not valid.
    #[error("its answer cannot be read: {0}")]
    Unreadable(String),
    /// The agent sends more than an agent may.
    #[error("it sends more than an agent of LPM does, so it is not listened to: {0}")]
    Excessive(String),
    /// The agent belongs to another node, with this name.
    #[error("it says it is the agent of node {0}")]
    Other(Arc<str>),
}

impl Trouble {
    /// Value of the label `reason`.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Silent => "silent",
            Self::Refused(_) => "refused",
            Self::Unreadable(_) => "unreadable",
            Self::Excessive(_) => "excessive",
            Self::Other(_) => "other",
        }
    }
}
