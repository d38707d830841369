//! Names from the agents of other nodes.
//!
//! With `identity.kubernetes.scope: node` an agent follows the pods of its own node only. The names
//! of others' pods it has from their agents: whose address is in the range of pods of a node is
//! asked there, as long as something talks with that node.
//!
//! A name must never stay when its address has another owner, so nothing is remembered beyond what
//! its node's agent says now. An answer is a stream ([`line::Line`]): all names of that node's
//! pods, then each change at once, and every [`HEARTBEAT`](crate::mesh::HEARTBEAT) a sign that the agent still follows
//! its pods. What was not heard for [`LEASE`](crate::mesh::LEASE), because the stream broke, the agent died or
//! stands still, is unknown again. An agent's word counts for the ranges of its own node and for nothing else, so
//! it can lie about its own pods at most.
//!
//! [`NamePublisher`] is what an agent says, [`Peers`] who is asked and what is believed. How another
//! agent is called and heard is in [`crate::mesh`].

mod line;
mod publisher;
mod table;
#[cfg(test)]
mod tests;

pub use line::{Line, Named};
pub use publisher::{NamePublisher, Refusal};
pub(crate) use table::{PeerMessage, Peers, Report};

/// Path of the stream of names.
pub const PATH: &str = "/api/v1/names";
