//! An agent that follows its own node's pods only: what it tells the others, and whom it asks.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use kube::Client;
use tokio::{
    sync::mpsc::{self, Receiver, Sender},
    time::Duration,
};

use super::{
    pod_addressing::{Ground, PodAddressing},
    standin::{self, stand_in},
    state::ClusterState,
};
use crate::{
    identity::{
        merge::{Change, Moved},
        peers::{Line, NamePublisher, PATH, PeerMessage, Peers, Report},
    },
    mesh::{HEARTBEAT, LEASE, PeerConnection, Target, Trouble, subscribe},
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
    pub board: Arc<NamePublisher>,
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
type Begin = Box<dyn FnMut(SocketAddr, &Arc<str>, u64) -> Option<PeerConnection> + Send>;

/// The running part.
pub(super) struct NodeScope {
    of: OfNode,
    ground: Ground,
    peers: Peers<Begin>,
    hears: Receiver<(u64, PeerMessage)>,
    to: Sender<(u64, PeerMessage)>,
    api: Api,
    /// By nodes whose agents do not answer: what is heard of their pods in their place.
    stand_ins: HashMap<Arc<str>, PeerConnection>,
    /// Version of the nodes that was seen last.
    nodes: u64,
    /// Nodes whose agents' silence has been said.
    said: HashSet<Arc<str>>,
    errors: HashMap<&'static str, u64>,
    alive: Option<Instant>,
    wanted: Option<Instant>,
    /// Since when all is known but what others tell.
    complete: Option<Instant>,
}

/// Where pods are followed whose agents do not answer, and the labels that names carry.
pub(super) struct Api {
    pub(super) client: Client,
    pub(super) labels: Arc<[String]>,
}

impl NodeScope {
    pub(super) fn new(of: OfNode, api: Api) -> Self {
        let (to, hears) = mpsc::channel(WAITING);
        of.board.open(Arc::clone(&of.node));
        Self {
            ground: Ground::new(Arc::clone(&of.node)),
            peers: Peers::new(Arc::clone(&of.node), of.port, begin(to.clone())),
            hears,
            to,
            api,
            stand_ins: HashMap::new(),
            nodes: 0,
            said: HashSet::new(),
            errors: HashMap::new(),
            alive: None,
            wanted: None,
            complete: None,
            of,
        }
    }

    /// Waits for the next word of another agent.
    pub(super) async fn recv(&mut self) -> (u64, PeerMessage) {
        match self.hears.recv().await {
            Some(said) => said,
            // The sender is in `peers`.
            None => std::future::pending().await,
        }
    }

    /// Takes in what another agent says; returns what had changed hands before.
    pub(super) fn take(
        &mut self,
        (number, said): (u64, PeerMessage),
        world: &ClusterState,
        out: &mut Vec<Change>,
    ) -> Vec<Moved> {
        let mut moved = Vec::new();
        match said {
            PeerMessage::Line(line) => {
                if let Some(node) = self.peers.node(number) {
                    self.stand_ins.remove(node);
                    if self.said.remove(node) {
                        tracing::info!("the agent of node {node} answers");
                    }
                }
                moved = self.line(number, line, world, out);
            }
            // It may be of a moment before the agent answered.
            PeerMessage::InPlace(line) if self.stand_ins.contains_key(&line.node) => {
                let number = self.peers.number(&line.node).unwrap_or_default();
                moved = self.line(number, line, world, out);
            }
            PeerMessage::InPlace(_) => {}
            PeerMessage::Nothing(trouble) => {
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

    fn line(
        &mut self,
        number: u64,
        line: Line,
        world: &ClusterState,
        out: &mut Vec<Change>,
    ) -> Vec<Moved> {
        let home = |address| world.nodes().home(address);
        let moved = self.peers.moved(number, &line, home);
        let at = (Instant::now(), out);
        if self.stand_ins.contains_key(&line.node) {
            self.peers.take_in_place(line, home, at);
        } else {
            self.peers.take(number, line, home, at);
        }
        moved
    }

    /// Each agent's silence is said once until it answers.
    fn count(&mut self, node: &Arc<str>, trouble: &Trouble) {
        self.ask_in_place(node);
        *self.errors.entry(trouble.reason()).or_default() += 1;
        if self.said.insert(Arc::clone(node)) {
            tracing::warn!(
                "the agent of node {node} does not tell names: {trouble}; until it does the API \
                 server is asked for its pods, or, if too many agents are silent, they are unknown"
            );
        }
    }

    /// The API server is asked for the pods of a node, if not of too many already.
    fn ask_in_place(&mut self, node: &Arc<str>) {
        if self.stand_ins.len() >= standin::MOST || self.stand_ins.contains_key(node) {
            return;
        }
        let Api { client, labels } = &self.api;
        let (labels, to) = (Arc::clone(labels), self.to.clone());
        let asking = stand_in(client.clone(), Arc::clone(node), labels, to);
        let talk = PeerConnection(tokio::spawn(asking).abort_handle());
        self.stand_ins.insert(Arc::clone(node), talk);
    }

    /// The world has changed by these.
    pub(super) fn changed(&mut self, world: &ClusterState, moved: &[Moved], out: &mut Vec<Change>) {
        self.of.board.take(out, moved);
        let nodes = world.nodes();
        if nodes.version() != self.nodes {
            self.nodes = nodes.version();
            // Whoever could not be asked before.
            self.wanted = None;
            self.of.board.admit(nodes.addresses());
            self.peers.nodes_changed(|address| nodes.home(address), out);
        }
    }

    /// Does what is due; to be called every [`TICK`].
    pub(super) fn tick(&mut self, world: &ClusterState, asks: bool, out: &mut Vec<Change>) {
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
        let peers = &self.peers;
        self.stand_ins
            .retain(|node, _| peers.number(node).is_some());
    }

    /// Whether all that is asked have told their names, or had time enough, since all else was known.
    /// So long what an agent before this one told the kernel may hold.
    pub(super) fn have_told(&mut self) -> bool {
        let since = *self.complete.get_or_insert_with(Instant::now);
        let asked = self.wanted.is_some() && self.peers.report().silent == 0;
        asked || since.elapsed() >= LEASE
    }

    /// Whether others may hear of this node's pods: all are known, and it is still a node.
    pub(super) fn publish(&self, world: &ClusterState, complete: bool) {
        let is_node = world.nodes().ranges_of(&self.of.node).is_some();
        self.of.board.set_whole(complete && is_node);
    }

    pub(super) fn look(&mut self, world: &ClusterState) -> PodAddressing {
        self.ground.look(world, Instant::now())
    }

    /// Nobody is asked any more.
    pub(super) fn end(&mut self, out: &mut Vec<Change>) {
        self.stand_ins.clear();
        self.peers.end(out);
    }

    pub(super) fn report(&self) -> (Report, HashMap<&'static str, u64>) {
        let mut report = self.peers.report();
        report.in_place = self.stand_ins.len();
        let nodes = self.stand_ins.keys();
        let believed = nodes.filter(|node| self.peers.is_heard(node)).count();
        // That their names are known is not their own merit.
        report.answering -= believed;
        report.silent += believed;
        (report, self.errors.clone())
    }

    pub(super) fn node(&self) -> &Arc<str> {
        &self.of.node
    }
}

fn begin(to: Sender<(u64, PeerMessage)>) -> Begin {
    Box::new(move |at, node, number| {
        let target = Target {
            at,
            node: Arc::clone(node),
            path: PATH,
        };
        let told = move |said| match said {
            Ok(line) => (number, PeerMessage::Line(line)),
            Err(trouble) => (number, PeerMessage::Nothing(trouble)),
        };
        let asking = tokio::spawn(subscribe(target, to.clone(), told));
        Some(PeerConnection(asking.abort_handle()))
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
