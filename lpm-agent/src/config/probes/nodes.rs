//! The configuration key `probes.nodes`: the other nodes of the cluster as targets.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{SESSIONS, SessionKey};

/// Most nodes that each are probed by all others, and most peers of a node.
const MOST: u16 = 512;

/// The agents of the cluster's other nodes as targets, by the nodes' names. What holds for all
/// targets holds for them. They come and go with their nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProbedNodes {
    /// Whether nodes are probed. It takes names from Kubernetes (`identity.kubernetes`), the name of
    /// this node (`node_name`), and a reflector on each node (`reflector.listen`) at `probes.port`.
    pub enabled: bool,
    /// Up to so many nodes, each probes all others. Above it, each probes `peers` of them.
    #[schemars(range(min = 1, max = MOST))]
    pub full_up_to: u16,
    /// How many nodes each probes in a larger cluster. They are chosen by a hash of both names, and
    /// for each pair of zones at least one pair of nodes is chosen.
    #[schemars(range(min = 1, max = MOST))]
    pub peers: u16,
    /// The key of the sessions to nodes. If absent: packets are not authenticated.
    pub key: Option<SessionKey>,
}

impl Default for ProbedNodes {
    fn default() -> Self {
        Self {
            enabled: false,
            full_up_to: 50,
            peers: 16,
            key: None,
        }
    }
}

impl ProbedNodes {
    /// What cannot work: the key, its value, and the remedy.
    pub(super) fn check(&self) -> Result<(), (&'static str, String, &'static str)> {
        for (key, value) in [
            ("probes.nodes.full_up_to", self.full_up_to),
            ("probes.nodes.peers", self.peers),
        ] {
            if value == 0 || usize::from(value) > SESSIONS {
                return Err((key, value.to_string(), "give 1 to 512"));
            }
        }
        if self.key.as_ref().is_some_and(|key| key.session == 0) {
            let remedy = "give a session from 1 to 65535";
            return Err(("probes.nodes.key", "session 0".to_owned(), remedy));
        }
        Ok(())
    }
}
