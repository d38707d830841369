//! The agents of other nodes: which of them are asked, and how one is called.
//!
//! An agent answers with a stream of lines of JSON ([`MeshLine`]) that has no end. It says something
//! at least every [`HEARTBEAT`]; whoever says nothing for [`LEASE`] is asked from the beginning, and
//! nothing that it said before is believed. [`subscribe`] calls one agent, [`Agents`] knows all
//! that are called. What the lines mean is left to the rooms above.

mod agents;
mod lines;
mod subscribe;

use std::{net::IpAddr, sync::Arc, time::Duration};

use thiserror::Error;
use tokio::task::AbortHandle;

pub(crate) use agents::{Agents, Peer};
pub(crate) use lines::MeshLine;
pub(crate) use subscribe::{Target, subscribe};

/// How often an agent says that what it said still holds.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(1);

/// For how long an agent's word is believed after it was last heard.
pub(crate) const LEASE: Duration = Duration::from_secs(3);

/// An agent, by its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Agent {
    /// The name of the node.
    pub(crate) node: Arc<str>,
    /// Where the agent is.
    pub(crate) address: IpAddr,
}

/// A conversation with an agent; it ends with this value.
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
    /// It has not said anything for the time of a lease.
    #[error("it says nothing")]
    Silent,
    /// It does not want to, or cannot.
    #[error("it answers {0}")]
    Refused(String),
    /// What it says is no line of ours.
    #[error("what it says cannot be read: {0}")]
    Unreadable(String),
    /// It is another node's.
    #[error("it is the agent of node {0}")]
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
            Self::Other(_) => "other",
        }
    }
}
