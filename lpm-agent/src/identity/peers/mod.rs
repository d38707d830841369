//! Names from the agents of other nodes.
//!
//! With `identity.kubernetes.scope: node` an agent follows the pods of its own node only. It gets
//! the names of other pods from their nodes' agents. An address in a node's pod range is asked of
//! that node's agent, as long as something talks with that node.
//!
//! A name must never stay when its address has another owner. So nothing is remembered beyond what
//! the node's agent says now. An answer is a stream ([`line::Line`]): all names of that node's
//! pods, then each change at once, and every second a sign that the agent still follows its pods.
//! If an agent was not heard for three seconds, because the stream broke, the agent died or it
//! stands still, its names are unknown again. An agent's names count for the pod ranges of its own
//! node and for nothing else. So it can lie about its own pods at most.
//!
//! [`NamePublisher`] sends this agent's names, and `Peers` decides which agents are asked and which
//! names are believed. The room `mesh` calls the other agents and listens to them.

mod hear;
mod limits;
mod line;
mod publisher;
mod table;
#[cfg(test)]
mod tests;

#[doc(hidden)]
pub use hear::hear;
pub use line::{Line, Named};
pub use publisher::{NamePublisher, Refusal};
pub(crate) use table::{PeerMessage, Peers, Report};

/// HTTP path of the stream of names.
pub const PATH: &str = "/api/v1/names";
