//! An agent that follows its own node's pods only: what it tells the others, and whom it asks.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use tokio::{
    sync::mpsc::{self, Receiver, Sender},
    time::Duration,
};

use super::{
    footing::{Footing, Ground},
    world::World,
};
use crate::identity::{
    merge::{Change, Moved},
    peers::{Board, HEARTBEAT, Peers, Report, Said, Talk, Trouble, ask},
};

/// How often it is looked who is to be asked, and what is still believed.
pub(super) const TICK: Duration = Duration::from_millis(500);

/// What may wait to be taken in; an agent that says more waits itself.
const WAITING: usize = 256;

/// What an agent needs that follows its own node's pods only.
#[derive(Clone)]
pub struct OfNode {
    /// The name of the node.
    pub node: Arc<str>,
    /// The port of all agents.
    pub port: u16,
    /// Where others hear of this node's pods.
    pub board: Arc<Board>,
    /// Tells the addresses that flows have now.
    pub addresses: Arc<dyn Fn() -> Vec<IpAddr> + Send + Sync>,
}

impl fmt::Debug for OfNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfNode")
            .field("node", &self.node)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// How a conversation begins.
type Begin = Box<dyn FnMut(SocketAddr, &Arc<str>, u64) -> Option<Talk> + Send>;

/// The running part.
pub(super) struct Near {
    of: OfNode,
    ground: Ground,
    peers: Peers<Begin>,
    hears: Receiver<(u64, Said)>,
    /// Version of the nodes that was seen last.
    nodes: u64,
    /// Nodes whose agents' silence has been said.
    said: HashSet<Arc<str>>,
    errors: HashMap<&'static str, u64>,
    alive: Option<Instant>,
    wanted: Option<Instant>,
}

impl Near {
    pub(super) fn new(of: OfNode) -> Self {
        let (to, hears) = mpsc::channel(WAITING);
        of.board.open(Arc::clone(&of.node));
        Self {
            ground: Ground::new(Arc::clone(&of.node)),
            peers: Peers::new(Arc::clone(&of.node), of.port, begin(to)),
            hears,
            nodes: 0,
            said: HashSet::new(),
            errors: HashMap::new(),
            alive: None,
            wanted: None,
            of,
        }
    }

    /// Waits for the next word of another agent.
    pub(super) async fn hear(&mut self) -> (u64, Said) {
        match self.hears.recv().await {
            Some(said) => said,
            // The sender is in `peers`.
            None => std::future::pending().await,
        }
    }

    /// Takes in what another agent says; returns what had changed hands before.
    pub(super) fn take(
        &mut self,
        (number, said): (u64, Said),
        world: &World,
        out: &mut Vec<Change>,
    ) -> Vec<Moved> {
        let mut moved = Vec::new();
        let home = |address| world.nodes().home(address);
        match said {
            Said::Line(line) => {
                if let Some(node) = self.peers.node(number)
                    && self.said.remove(node)
                {
                    tracing::info!("the agent of node {node} answers");
                }
                moved = self.peers.moved(number, &line, home);
                self.peers.take(number, line, home, (Instant::now(), out));
            }
            Said::Nothing(trouble) => {
                // What was ended meanwhile has been counted.
                if let Some(node) = self.peers.node(number).map(Arc::clone) {
                    self.count(&node, &trouble);
                }
            }
        }
        if !self.ground.is_seen() && self.peers.report().names > 0 {
            self.ground.others_stand();
        }
        moved
    }

    /// Each agent's silence is said once until it answers.
    fn count(&mut self, node: &Arc<str>, trouble: &Trouble) {
        *self.errors.entry(trouble.reason()).or_default() += 1;
        if self.said.insert(Arc::clone(node)) {
            tracing::warn!(
                "the agent of node {node} does not tell names: {trouble}; its pods are unknown \
                 until it does"
            );
        }
    }

    /// The world has changed by these.
    pub(super) fn changed(&mut self, world: &World, moved: &[Moved], out: &mut Vec<Change>) {
        self.of.board.take(out, moved);
        let nodes = world.nodes();
        if nodes.version() != self.nodes {
            self.nodes = nodes.version();
            self.of.board.admit(nodes.addresses());
            self.peers.nodes_changed(|address| nodes.home(address), out);
        }
    }

    /// Does what is due; to be called every [`TICK`].
    pub(super) fn tick(&mut self, world: &World, asks: bool, out: &mut Vec<Change>) {
        let now = Instant::now();
        if is_due(&mut self.alive, now) {
            self.of.board.alive();
        }
        if asks && is_due(&mut self.wanted, now) {
            let addresses = (self.of.addresses)();
            let home = |address| world.nodes().home(address);
            self.peers.want(addresses, home, (now, out));
        }
        for node in self.peers.tick(now, out) {
            self.count(&node, &Trouble::Silent);
        }
    }

    /// Whether others may hear of this node's pods: all are known, and it is still a node.
    pub(super) fn publish(&self, world: &World, complete: bool) {
        let is_node = world.nodes().ranges_of(&self.of.node).is_some();
        self.of.board.set_whole(complete && is_node);
    }

    pub(super) fn look(&mut self, world: &World) -> Footing {
        self.ground.look(world, Instant::now())
    }

    /// Nobody is asked any more.
    pub(super) fn end(&mut self, out: &mut Vec<Change>) {
        self.peers.end(out);
    }

    pub(super) fn report(&self) -> (Report, HashMap<&'static str, u64>) {
        (self.peers.report(), self.errors.clone())
    }

    pub(super) fn node(&self) -> &Arc<str> {
        &self.of.node
    }
}

fn begin(to: Sender<(u64, Said)>) -> Begin {
    Box::new(move |at, node, number| {
        let asking = tokio::spawn(ask(at, Arc::clone(node), number, to.clone()));
        Some(Talk(asking.abort_handle()))
    })
}

/// Whether it is time again.
fn is_due(last: &mut Option<Instant>, now: Instant) -> bool {
    let due = last.is_none_or(|last| now.saturating_duration_since(last) >= HEARTBEAT);
    if due {
        *last = Some(now);
    }
    due
}
