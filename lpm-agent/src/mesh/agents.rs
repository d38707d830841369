//! The table of agents: which ones are called, and which of them are heard.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Agent, LEASE, PeerConnection};

/// Time for which an agent is still listened to when nobody wants it any more.
const IDLE: Duration = Duration::from_mins(5);

/// The agents that are called, each with the content of its lines (`T`). Pure, apart from `begin`.
#[derive(Debug)]
pub(crate) struct Agents<B, T> {
    /// Starts a connection to a node's agent, under this number.
    begin: B,
    port: u16,
    own: Arc<str>,
    known: HashMap<Arc<str>, Peer<T>>,
    /// The node of each connection, by the connection's number.
    by_number: HashMap<u64, Arc<str>>,
    numbers: u64,
}

/// An agent that is called.
#[derive(Debug)]
pub(crate) struct Peer<T> {
    address: IpAddr,
    number: u64,
    _talk: Option<PeerConnection>,
    /// When somebody last wanted the agent.
    wanted: Instant,
    /// When the agent was last heard. None: its lines are not believed.
    heard: Option<Instant>,
    /// Content of the lines of this connection.
    pub(crate) said: T,
}

impl<B, T: Default> Agents<B, T>
where
    B: FnMut(SocketAddr, &Arc<str>, u64) -> Option<PeerConnection>,
{
    /// An empty table. The agent of the `own` node is never called. All agents listen at `port`.
    pub(crate) fn new(own: Arc<str>, port: u16, begin: B) -> Self {
        Self {
            begin,
            port,
            own,
            known: HashMap::new(),
            by_number: HashMap::new(),
            numbers: 0,
        }
    }

    /// Calls the wanted agents that are not called yet, or have another address than before. Returns
    /// the content of the latter, which is not believed any more.
    pub(crate) fn want(&mut self, agents: impl IntoIterator<Item = Agent>, now: Instant) -> Vec<T> {
        let (mut seen, mut said) = (HashSet::new(), Vec::new());
        for Agent { node, address } in agents {
            if node == self.own || !seen.insert(Arc::clone(&node)) {
                continue;
            }
            if let Some(peer) = self.known.get_mut(&node)
                && peer.address == address
            {
                peer.wanted = now;
            } else {
                said.extend(self.begin(node, address, now));
            }
        }
        said
    }

    /// Calls an agent. Returns the content of its lines so far, if it was called already.
    fn begin(&mut self, node: Arc<str>, address: IpAddr, wanted: Instant) -> Option<T> {
        self.numbers += 1;
        let number = self.numbers;
        let peer = Peer {
            address,
            number,
            _talk: (self.begin)(SocketAddr::new(address, self.port), &node, number),
            wanted,
            heard: None,
            said: T::default(),
        };
        self.by_number.insert(number, Arc::clone(&node));
        let before = self.known.insert(node, peer)?;
        self.by_number.remove(&before.number);
        Some(before.said)
    }

    /// Ends connections to agents that nobody wants any more, and calls those again that were not
    /// heard for [`LEASE`]. Returns the nodes of the latter, and the content of both, which is not
    /// believed any more.
    pub(crate) fn tick(&mut self, now: Instant) -> (Vec<Arc<str>>, Vec<T>) {
        let is_late = |heard: Instant| now.saturating_duration_since(heard) >= LEASE;
        let (mut again, mut said) = (Vec::new(), Vec::new());
        let by_number = &mut self.by_number;
        self.known.retain(|node, peer| {
            let wanted = now.saturating_duration_since(peer.wanted) < IDLE;
            if !wanted {
                said.push(std::mem::take(&mut peer.said));
                by_number.remove(&peer.number);
            } else if peer.heard.is_some_and(is_late) {
                again.push((Arc::clone(node), peer.address, peer.wanted));
            }
            wanted
        });
        let silent = again.iter().map(|(node, ..)| Arc::clone(node)).collect();
        for (node, address, wanted) in again {
            said.extend(self.begin(node, address, wanted));
        }
        (silent, said)
    }

    /// Ends all connections. Returns the content of their lines.
    pub(crate) fn end(&mut self) -> Vec<T> {
        self.by_number.clear();
        self.known.drain().map(|(_, peer)| peer.said).collect()
    }

    /// The node of the connection with this number.
    pub(crate) fn node(&self, number: u64) -> Option<&Arc<str>> {
        self.by_number.get(&number)
    }

    /// The node and the agent of the connection with this number.
    pub(crate) fn by_number(&mut self, number: u64) -> Option<(&Arc<str>, &mut Peer<T>)> {
        let node = self.by_number.get(&number)?;
        Some((node, self.known.get_mut(node)?))
    }

    /// The agent of a node. None: it is not called.
    pub(crate) fn get(&self, node: &Arc<str>) -> Option<&Peer<T>> {
        self.known.get(node)
    }

    /// All agents that are called.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Peer<T>> {
        self.known.values()
    }

    /// All agents that are called, with their nodes.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&Arc<str>, &mut Peer<T>)> {
        self.known.iter_mut()
    }
}

impl<T> Peer<T> {
    /// Address of the agent.
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// The number of the connection.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// True if the agent's lines are believed now.
    pub(crate) fn is_heard(&self) -> bool {
        self.heard.is_some()
    }

    /// Records that a line came.
    pub(crate) fn hear(&mut self, now: Instant) {
        self.heard = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(number: u8) -> Agent {
        Agent {
            node: format!("n{number}").into(),
            address: [198, 18, 0, number].into(),
        }
    }

    #[test]
    fn an_agent_is_called_while_it_is_wanted_and_again_when_it_falls_silent() {
        let mut called = Vec::new();
        let mut agents = Agents::<_, Vec<&str>>::new("n1".into(), 9477, |at, node, number| {
            called.push(format!("{number} {node} {at}"));
            None
        });
        let now = Instant::now();
        agents.want([1, 2, 2, 3].map(agent), now);
        let (node, peer) = agents.by_number(1).expect("the first that is called");
        assert_eq!(&**node, "n2");
        peer.hear(now);
        peer.said.push("a word");
        // It moves: what it said counts no more, and its number is nobody's.
        let elsewhere = Agent {
            address: [198, 18, 9, 2].into(),
            ..agent(2)
        };
        assert_eq!(agents.want([elsewhere], now), [["a word"]]);
        assert!(agents.node(1).is_none() && agents.node(3).is_some());
        let (_, peer) = agents.by_number(3).expect("the agent that moved");
        peer.hear(now);
        peer.said.push("another");
        let (silent, said) = agents.tick(now + LEASE);
        assert_eq!((silent, said), (vec!["n2".into()], vec![vec!["another"]]));
        assert!(agents.iter().all(|peer| !peer.is_heard()));
        agents.tick(now + IDLE);
        assert_eq!(agents.iter().count(), 0);
        let expected = [
            "1 n2 198.18.0.2:9477",
            "2 n3 198.18.0.3:9477",
            "3 n2 198.18.9.2:9477",
            "4 n2 198.18.9.2:9477",
        ];
        assert_eq!(called, expected);
    }
}
