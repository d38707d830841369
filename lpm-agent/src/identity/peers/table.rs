//! The table of peers: which agents are asked, and which of their names are believed.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use thiserror::Error;
use tokio::task::AbortHandle;

use super::{LEASE, Line, Named};
use crate::identity::{
    Name,
    kubernetes::Home,
    merge::{Change, Moved, Origin},
    names_file::Kind,
};

/// Time for which a node's agent is still asked when nothing talks with the node any more.
const IDLE: Duration = Duration::from_mins(5);

/// A message about another agent.
#[derive(Debug)]
pub(crate) enum PeerMessage {
    /// A line of the agent.
    Line(Line),
    /// A line of the stand-in, which reads the node's pods from the API server while the agent does
    /// not answer.
    InPlace(Line),
    /// The agent does not answer.
    Nothing(Trouble),
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
            Self::Other(_) => "other",
        }
    }
}

/// State of the connections to other agents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Number of agents whose names are believed now.
    pub(crate) answering: usize,
    /// Number of agents that are asked and do not answer.
    pub(crate) silent: usize,
    /// Number of silent agents whose pods' names come from the API server meanwhile.
    pub(crate) in_place: usize,
    /// Number of names from other agents.
    pub(crate) names: usize,
}

/// A connection to an agent. It ends when this value is dropped.
#[derive(Debug)]
pub(crate) struct PeerConnection(pub(crate) AbortHandle);

impl Drop for PeerConnection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The agents that are asked. Pure, except for the effects of `begin`.
#[derive(Debug)]
pub(crate) struct Peers<B> {
    /// Starts a connection to a node's agent, under this number.
    begin: B,
    port: u16,
    own: Arc<str>,
    known: HashMap<Arc<str>, Peer>,
    /// The node of each connection, by the connection's number.
    by_number: HashMap<u64, Arc<str>>,
    numbers: u64,
}

#[derive(Debug)]
struct Peer {
    agent: IpAddr,
    number: u64,
    _talk: Option<PeerConnection>,
    /// When something last talked with the agent's node.
    wanted: Instant,
    /// When the agent was last heard. None: its names are not believed.
    heard: Option<Instant>,
    names: BTreeMap<IpAddr, Arc<Name>>,
}

impl<B: FnMut(SocketAddr, &Arc<str>, u64) -> Option<PeerConnection>> Peers<B> {
    /// Starts without connections. The `own` node is never asked. All agents listen at this port.
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

    /// Starts to ask for these addresses, which something talks with, at the agents of their nodes.
    pub(crate) fn want(
        &mut self,
        addresses: impl IntoIterator<Item = IpAddr>,
        home: impl Fn(IpAddr) -> Option<Home>,
        (now, out): (Instant, &mut Vec<Change>),
    ) {
        let mut seen = HashSet::new();
        for address in addresses {
            let Some(Home { node, agent }) = home(address) else {
                continue;
            };
            if node == self.own || !seen.insert(Arc::clone(&node)) {
                continue;
            }
            if let Some(peer) = self.known.get_mut(&node)
                && peer.agent == agent
            {
                peer.wanted = now;
            } else {
                self.begin(node, agent, now, out);
            }
        }
    }

    fn begin(&mut self, node: Arc<str>, agent: IpAddr, wanted: Instant, out: &mut Vec<Change>) {
        self.numbers += 1;
        let number = self.numbers;
        let peer = Peer {
            agent,
            number,
            _talk: (self.begin)(SocketAddr::new(agent, self.port), &node, number),
            wanted,
            heard: None,
            names: BTreeMap::new(),
        };
        self.by_number.insert(number, Arc::clone(&node));
        if let Some(mut before) = self.known.insert(node, peer) {
            self.by_number.remove(&before.number);
            before.forget(out);
        }
    }

    /// Applies a message of the connection with this number.
    pub(crate) fn take(
        &mut self,
        number: u64,
        line: Line,
        home: impl Fn(IpAddr) -> Option<Home>,
        (now, out): (Instant, &mut Vec<Change>),
    ) {
        let Some(node) = self.by_number.get(&number) else {
            return;
        };
        let Some(peer) = self.known.get_mut(node) else {
            return;
        };
        let Line {
            all, changed, gone, ..
        } = line;
        // Changes mean nothing to a listener that has not received all names.
        if all.is_none() && peer.heard.is_none() {
            return;
        }
        peer.heard = Some(now);
        if let Some(all) = &all {
            let kept: HashSet<IpAddr> = all.iter().map(|named| named.address).collect();
            let before: Vec<IpAddr> = peer.names.keys().copied().collect();
            for address in before.into_iter().filter(|known| !kept.contains(known)) {
                peer.set(address, None, out);
            }
        }
        for address in gone {
            peer.set(address, None, out);
        }
        for Named { address, name } in all.into_iter().flatten().chain(changed) {
            let is_its = || home(address).is_some_and(|home| home.node == *node);
            let is_pod = name.kind == Kind::Pod;
            let name = (is_pod && is_its()).then(|| of_node(&name, node));
            peer.set(address, name, out);
        }
    }

    /// Applies the names of a stand-in, while the node's agent does not answer. The agent knows
    /// more of a pod than the stand-in (its services, the owner of its owner). So the agent's name
    /// stays for a pod that is still the same.
    pub(crate) fn take_in_place(
        &mut self,
        mut line: Line,
        home: impl Fn(IpAddr) -> Option<Home>,
        (now, out): (Instant, &mut Vec<Change>),
    ) {
        let Some(peer) = self.known.get(&line.node) else {
            return;
        };
        let number = peer.number;
        for named in line.all.iter_mut().flatten() {
            let is_same = |before: &&Arc<Name>| {
                let now = &named.name;
                (&before.namespace, &before.pod) == (&now.namespace, &now.pod)
            };
            if let Some(before) = peer.names.get(&named.address).filter(is_same) {
                named.name = Arc::clone(before);
            }
        }
        self.take(number, line, home, (now, out));
    }

    /// The number of a node's connection. None: the node is not asked.
    pub(crate) fn number(&self, node: &Arc<str>) -> Option<u64> {
        Some(self.known.get(node)?.number)
    }

    /// True if the names of a node are believed now.
    pub(crate) fn is_heard(&self, node: &Arc<str>) -> bool {
        let peer = self.known.get(node);
        peer.is_some_and(|peer| peer.heard.is_some())
    }

    /// Addresses of its own pods that an agent reports as having changed owners before. Call it
    /// before the line is applied.
    pub(crate) fn moved(
        &self,
        number: u64,
        line: &Line,
        home: impl Fn(IpAddr) -> Option<Home>,
    ) -> Vec<Moved> {
        let Some(node) = self.by_number.get(&number) else {
            return Vec::new();
        };
        let is_its = |moved: &&Moved| home(moved.address).is_some_and(|home| home.node == *node);
        line.moved.iter().filter(is_its).copied().collect()
    }

    /// Applies changes of the nodes. A node that is not where it was is asked no more, and its
    /// names are unknown.
    pub(crate) fn nodes_changed(
        &mut self,
        home: impl Fn(IpAddr) -> Option<Home>,
        out: &mut Vec<Change>,
    ) {
        for (node, peer) in &mut self.known {
            let addresses: Vec<IpAddr> = peer.names.keys().copied().collect();
            let is_its = |home: Home| home.node == *node && home.agent == peer.agent;
            let moved = addresses
                .into_iter()
                .filter(|address| !home(*address).is_some_and(is_its));
            for address in moved.collect::<Vec<_>>() {
                peer.set(address, None, out);
            }
        }
    }

    /// Ends connections that nobody needs any more. Names of agents that were not heard for too
    /// long become unknown, and are asked from the beginning. Returns the nodes whose agents have
    /// fallen silent.
    pub(crate) fn tick(&mut self, now: Instant, out: &mut Vec<Change>) -> Vec<Arc<str>> {
        let is_late = |heard: Instant| now.saturating_duration_since(heard) >= LEASE;
        let mut again = Vec::new();
        let by_number = &mut self.by_number;
        self.known.retain(|node, peer| {
            let wanted = now.saturating_duration_since(peer.wanted) < IDLE;
            if !wanted {
                peer.forget(out);
                by_number.remove(&peer.number);
            } else if peer.heard.is_some_and(is_late) {
                again.push((Arc::clone(node), peer.agent, peer.wanted));
            }
            wanted
        });
        let silent = again.iter().map(|(node, ..)| Arc::clone(node)).collect();
        for (node, agent, wanted) in again {
            self.begin(node, agent, wanted, out);
        }
        silent
    }

    /// Ends all connections.
    pub(crate) fn end(&mut self, out: &mut Vec<Change>) {
        self.by_number.clear();
        for (_, mut peer) in self.known.drain() {
            peer.forget(out);
        }
    }

    /// The state of the connections.
    pub(crate) fn report(&self) -> Report {
        let answering = self.known.values().filter(|peer| peer.heard.is_some());
        let answering = answering.count();
        Report {
            answering,
            silent: self.known.len() - answering,
            in_place: 0,
            names: self.known.values().map(|peer| peer.names.len()).sum(),
        }
    }

    /// The node of the connection with this number.
    pub(crate) fn node(&self, number: u64) -> Option<&Arc<str>> {
        self.by_number.get(&number)
    }
}

impl Peer {
    fn set(&mut self, address: IpAddr, name: Option<Arc<Name>>, out: &mut Vec<Change>) {
        let before = match &name {
            Some(name) => self.names.insert(address, Arc::clone(name)),
            None => self.names.remove(&address),
        };
        if before != name {
            out.push(Change {
                origin: Origin::Peer,
                range: address.into(),
                name,
            });
        }
    }

    /// Makes all names of the agent unknown.
    fn forget(&mut self, out: &mut Vec<Change>) {
        self.heard = None;
        let names = std::mem::take(&mut self.names);
        out.extend(names.into_keys().map(|address| Change {
            origin: Origin::Peer,
            range: address.into(),
            name: None,
        }));
    }
}

/// The name of a pod with this node, whatever the agent said about its place.
fn of_node(name: &Arc<Name>, node: &Arc<str>) -> Arc<Name> {
    if name.node.as_ref() == Some(node) {
        return Arc::clone(name);
    }
    Arc::new(Name {
        node: Some(Arc::clone(node)),
        ..(**name).clone()
    })
}
