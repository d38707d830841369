//! The table of peers: which agents are asked, and which of their names are believed.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use super::{Line, Named};
use crate::{
    identity::{
        Name,
        merge::{Change, Moved, Origin},
        names_file::Kind,
    },
    mesh::{Agent, Agents, Peer, PeerConnection, Trouble},
};

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

/// What one agent says: names of its node's pods.
type Names = BTreeMap<IpAddr, Arc<Name>>;

/// The agents that are asked for names. Pure, but for what `begin` does.
#[derive(Debug)]
pub(crate) struct Peers<B> {
    agents: Agents<B, Names>,
}

impl<B: FnMut(SocketAddr, &Arc<str>, u64) -> Option<PeerConnection>> Peers<B> {
    /// Nobody is asked yet; not ever the `own` node. The agents listen at this port. `begin` starts a
    /// conversation with a node's agent, under a number.
    pub(crate) fn new(own: Arc<str>, port: u16, begin: B) -> Self {
        Self {
            agents: Agents::new(own, port, begin),
        }
    }

    /// Starts to ask for these addresses, which something talks with, at the agents of their nodes.
    pub(crate) fn want(
        &mut self,
        addresses: impl IntoIterator<Item = IpAddr>,
        home: impl Fn(IpAddr) -> Option<Agent>,
        now: Instant,
        out: &mut Vec<Change>,
    ) {
        let agents = addresses.into_iter().filter_map(home);
        forget(self.agents.want(agents, now), out);
    }

    /// Applies a message of the connection with this number.
    pub(crate) fn take(
        &mut self,
        number: u64,
        line: Line,
        home: impl Fn(IpAddr) -> Option<Agent>,
        now: Instant,
        out: &mut Vec<Change>,
    ) {
        let Some((node, peer)) = self.agents.by_number(number) else {
            return;
        };
        let Line {
            all, changed, gone, ..
        } = line;
        // Changes mean nothing to a listener that has not received all names.
        if all.is_none() && !peer.is_heard() {
            return;
        }
        peer.hear(now);
        let names = &mut peer.said;
        if let Some(all) = &all {
            let kept: HashSet<IpAddr> = all.iter().map(|named| named.address).collect();
            let before: Vec<IpAddr> = names.keys().copied().collect();
            for address in before.into_iter().filter(|known| !kept.contains(known)) {
                set(names, address, None, out);
            }
        }
        for address in gone {
            set(names, address, None, out);
        }
        for Named { address, name } in all.into_iter().flatten().chain(changed) {
            let is_its = || home(address).is_some_and(|home| home.node == *node);
            let is_pod = name.kind == Kind::Pod;
            let name = (is_pod && is_its()).then(|| of_node(&name, node));
            set(names, address, name, out);
        }
    }

    /// Applies the names of a stand-in, while the node's agent does not answer. The agent knows
    /// more of a pod than the stand-in (its services, the owner of its owner). So the agent's name
    /// stays for a pod that is still the same.
    pub(crate) fn take_in_place(
        &mut self,
        mut line: Line,
        home: impl Fn(IpAddr) -> Option<Agent>,
        now: Instant,
        out: &mut Vec<Change>,
    ) {
        let Some(peer) = self.agents.get(&line.node) else {
            return;
        };
        let number = peer.number();
        for named in line.all.iter_mut().flatten() {
            let is_same = |before: &&Arc<Name>| {
                let now = &named.name;
                (&before.namespace, &before.pod) == (&now.namespace, &now.pod)
            };
            if let Some(before) = peer.said.get(&named.address).filter(is_same) {
                named.name = Arc::clone(before);
            }
        }
        self.take(number, line, home, now, out);
    }

    /// The number of a node's connection. None: the node is not asked.
    pub(crate) fn number(&self, node: &Arc<str>) -> Option<u64> {
        Some(self.agents.get(node)?.number())
    }

    /// True if the names of a node are believed now.
    pub(crate) fn is_heard(&self, node: &Arc<str>) -> bool {
        self.agents.get(node).is_some_and(Peer::is_heard)
    }

    /// Addresses of its own pods that an agent reports as having changed owners before. Call it
    /// before the line is applied.
    pub(crate) fn moved(
        &self,
        number: u64,
        line: &Line,
        home: impl Fn(IpAddr) -> Option<Agent>,
    ) -> Vec<Moved> {
        let Some(node) = self.agents.node(number) else {
            return Vec::new();
        };
        let is_its = |moved: &&Moved| home(moved.address).is_some_and(|home| home.node == *node);
        line.moved.iter().filter(is_its).copied().collect()
    }

    /// Applies changes of the nodes. A node that is not where it was is asked no more, and its
    /// names are unknown.
    pub(crate) fn nodes_changed(
        &mut self,
        home: impl Fn(IpAddr) -> Option<Agent>,
        out: &mut Vec<Change>,
    ) {
        for (node, peer) in self.agents.iter_mut() {
            let addresses: Vec<IpAddr> = peer.said.keys().copied().collect();
            let is_its = |home: Agent| home.node == *node && home.address == peer.address();
            let moved = addresses
                .into_iter()
                .filter(|address| !home(*address).is_some_and(is_its));
            for address in moved.collect::<Vec<_>>() {
                set(&mut peer.said, address, None, out);
            }
        }
    }

    /// Ends connections that nobody needs any more. Names of agents that were not heard for too
    /// long become unknown, and are asked from the beginning. Returns the nodes whose agents have
    /// fallen silent.
    pub(crate) fn tick(&mut self, now: Instant, out: &mut Vec<Change>) -> Vec<Arc<str>> {
        let (silent, said) = self.agents.tick(now);
        forget(said, out);
        silent
    }

    /// Ends all connections.
    pub(crate) fn end(&mut self, out: &mut Vec<Change>) {
        forget(self.agents.end(), out);
    }

    /// The state of the connections.
    pub(crate) fn report(&self) -> Report {
        let (mut answering, mut silent, mut names) = (0, 0, 0);
        for peer in self.agents.iter() {
            *if peer.is_heard() {
                &mut answering
            } else {
                &mut silent
            } += 1;
            names += peer.said.len();
        }
        Report {
            answering,
            silent,
            in_place: 0,
            names,
        }
    }

    /// The node of the connection with this number.
    pub(crate) fn node(&self, number: u64) -> Option<&Arc<str>> {
        self.agents.node(number)
    }
}

/// An agent names an address so now, or does not.
fn set(names: &mut Names, address: IpAddr, name: Option<Arc<Name>>, out: &mut Vec<Change>) {
    let before = match &name {
        Some(name) => names.insert(address, Arc::clone(name)),
        None => names.remove(&address),
    };
    if before != name {
        out.push(Change {
            origin: Origin::Peer,
            range: address.into(),
            name,
        });
    }
}

/// Nothing of this is believed any more.
fn forget(said: Vec<Names>, out: &mut Vec<Change>) {
    let addresses = said.into_iter().flat_map(Names::into_keys);
    out.extend(addresses.map(|address| Change {
        origin: Origin::Peer,
        range: address.into(),
        name: None,
    }));
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
