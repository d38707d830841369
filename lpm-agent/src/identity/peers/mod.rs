//! Names from the agents of other nodes.
//!
//! With `identity.kubernetes.scope: node` an agent follows the pods of its own node only. It gets
//! the names of other pods from their nodes' agents. An address in a node's pod range is asked of
//! that node's agent, as long as something talks with that node.
//!
//! A name must never stay when its address has another owner. So nothing is remembered beyond what
//! the node's agent says now. An answer is a stream ([`line::Line`]): all names of that node's
//! pods, then each change at once, and every [`HEARTBEAT`] a sign that the agent still follows its
//! pods. If an agent was not heard for [`LEASE`], because the stream broke, the agent died or it
//! stands still, its names are unknown again. An agent's names count for the pod ranges of its own
//! node and for nothing else. So it can lie about its own pods at most.
//!
//! [`NamePublisher`] sends this agent's names, `subscribe` receives another agent's, and `Peers`
//! decides which agents are asked.

mod line;
mod publisher;
mod subscribe;
mod table;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use line::{Line, Named};
pub use publisher::{NamePublisher, Refusal};
pub(crate) use subscribe::subscribe;
pub(crate) use table::{PeerConnection, PeerMessage, Peers, Report, Trouble};

/// Interval at which an agent says that its names still hold.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// Time for which a name is believed after its agent was last heard.
pub const LEASE: Duration = Duration::from_secs(3);

/// HTTP path of the stream of names.
pub const PATH: &str = "/api/v1/names";
