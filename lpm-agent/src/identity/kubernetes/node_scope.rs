//! Node scope: an agent that follows its own node's pods only publishes their names, and asks other
//! agents for the rest.

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
    pod_addressing::{AddressingCheck, PodAddressing},
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

/// Interval between two checks of which agents to ask, and which names still hold.
pub(super) const TICK: Duration = Duration::from_millis(500);

/// Messages that may wait. An agent that sends more waits itself.
const WAITING: usize = 256;

/// Settings of node scope.
#[derive(Clone)]
pub struct OfNode {
    /// Name of this node.
    pub node: Arc<str>,
    /// Port of all agents.
    pub port: u16,
    /// Publisher of this node's pods, which other agents listen to.
    pub publisher: Arc<NamePublisher>,
    /// Function that gives the remote addresses of current flows.
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

/// Starts a connection to the agent of a node, under a number.
type Begin = Box<dyn FnMut(SocketAddr, &Arc<str>, u64) -> Option<PeerConnection> + Send>;

/// The running state of node scope.
pub(super) struct NodeScope {
    of: OfNode,
    addressing: AddressingCheck,
    peers: Peers<Begin>,
    hears: Receiver<(u64, PeerMessage)>,
    to: Sender<(u64, PeerMessage)>,
    api: Api,
    /// Stand-ins by node: they read the pods of a node from the API server while its agent does not
    /// answer.
    stand_ins: HashMap<Arc<str>, PeerConnection>,
    /// Version of the nodes that was seen last.
    nodes: u64,
    /// Nodes whose silent agents were logged.
    said: HashSet<Arc<str>>,
    errors: HashMap<&'static str, u64>,
    alive: Option<Instant>,
    wanted: Option<Instant>,
    /// When all other names were complete. None: they are not yet.
    complete: Option<Instant>,
}

/// Access to the API server for stand-ins, and the labels that names include.
pub(super) struct Api {
    pub(super) client: Client,
    pub(super) labels: Arc<[String]>,
}

impl NodeScope {
    pub(super) fn new(of: OfNode, api: Api) -> Self {
        let (to, hears) = mpsc::channel(WAITING);
        of.publisher.open(Arc::clone(&of.node));
        Self {
            addressing: AddressingCheck::new(Arc::clone(&of.node)),
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

    /// Waits for the next message of another agent.
    pub(super) async fn recv(&mut self) -> (u64, PeerMessage) {
        match self.hears.recv().await {
            Some(said) => said,
            // The sender is in `peers`.
            None => std::future::pending().await,
        }
    }

    /// Applies a message of another agent. Returns the addresses that had changed owners before.
    pub(super) fn take(
        &mut self,
        number: u64,
        said: PeerMessage,
        state: &ClusterState,
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
                moved = self.line(number, line, state, out);
            }
            // The stand-in's message may be older than the agent's first answer.
            PeerMessage::InPlace(line) if self.stand_ins.contains_key(&line.node) => {
                let number = self.peers.number(&line.node).unwrap_or_default();
                moved = self.line(number, line, state, out);
            }
            PeerMessage::InPlace(_) => {}
            PeerMessage::Nothing(trouble) => {
                // A connection that was ended meanwhile has been counted.
                if let Some(node) = self.peers.node(number).map(Arc::clone) {
                    self.count(&node, &trouble);
                }
            }
        }
        if !self.addressing.is_seen() && self.peers.report().names > 0 {
            self.addressing.others_named();
        }
        moved
    }

    fn line(
        &mut self,
        number: u64,
        line: Line,
        state: &ClusterState,
        out: &mut Vec<Change>,
    ) -> Vec<Moved> {
        let home = |address| state.nodes().home(address);
        let moved = self.peers.moved(number, &line, home);
        let now = Instant::now();
        if self.stand_ins.contains_key(&line.node) {
            self.peers.take_in_place(line, home, now, out);
        } else {
            self.peers.take(number, line, home, now, out);
        }
        moved
    }

    /// Logs each agent's silence once until it answers.
    fn count(&mut self, node: &Arc<str>, trouble: &Trouble) {
        self.ask_in_place(node);
        *self.errors.entry(trouble.reason()).or_default() += 1;
        if self.said.insert(Arc::clone(node)) {
            tracing::warn!(
                "the agent of node {node} does not serve names: {trouble}. Until it does, this \
                 agent asks the API server for the pods of that node. If too many agents are \
                 silent, those pods are unknown"
            );
        }
    }

    /// Starts a stand-in for a node, if not too many run already.
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

    /// Applies changes of the cluster state.
    pub(super) fn changed(&mut self, state: &ClusterState, moved: &[Moved], out: &mut Vec<Change>) {
        self.of.publisher.take(out, moved);
        let nodes = state.nodes();
        if nodes.version() != self.nodes {
            self.nodes = nodes.version();
            // Nodes that could not be asked before may be known now.
            self.wanted = None;
            self.of.publisher.admit(nodes.addresses());
            self.peers.nodes_changed(|address| nodes.home(address), out);
        }
    }

    /// Does what is due. Call it every [`TICK`].
    pub(super) fn tick(&mut self, state: &ClusterState, asks: bool, out: &mut Vec<Change>) {
        let now = Instant::now();
        if is_due(&mut self.alive, now) {
            self.of.publisher.alive();
        }
        if asks && is_due(&mut self.wanted, now) {
            let addresses = (self.of.addresses)();
            let home = |address| state.nodes().home(address);
            self.peers.want(addresses, home, now, out);
        }
        for node in self.peers.tick(now, out) {
            self.count(&node, &Trouble::Silent);
        }
        let peers = &self.peers;
        self.stand_ins
            .retain(|node, _| peers.number(node).is_some());
    }

    /// True if every asked agent has sent its names, or had time enough since all other names were
    /// complete. Until then the names of the last agent in the kernel may hold.
    pub(super) fn have_told(&mut self) -> bool {
        let since = *self.complete.get_or_insert_with(Instant::now);
        let asked = self.wanted.is_some() && self.peers.report().silent == 0;
        asked || since.elapsed() >= LEASE
    }

    /// Publishes this node's pods, if all are known and the node still exists.
    pub(super) fn publish(&self, state: &ClusterState, complete: bool) {
        let is_node = state.nodes().ranges_of(&self.of.node).is_some();
        self.of.publisher.set_whole(complete && is_node);
    }

    pub(super) fn look(&mut self, state: &ClusterState) -> PodAddressing {
        self.addressing.look(state, Instant::now())
    }

    /// Ends all connections to other agents.
    pub(super) fn end(&mut self, out: &mut Vec<Change>) {
        self.stand_ins.clear();
        self.peers.end(out);
    }

    pub(super) fn report(&self) -> (Report, HashMap<&'static str, u64>) {
        let mut report = self.peers.report();
        report.in_place = self.stand_ins.len();
        let nodes = self.stand_ins.keys();
        let believed = nodes.filter(|node| self.peers.is_heard(node)).count();
        // Their names come from the stand-ins, not from the agents.
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

/// True if the interval has passed again.
fn is_due(last: &mut Option<Instant>, now: Instant) -> bool {
    let due = last.is_none_or(|last| now.saturating_duration_since(last) >= HEARTBEAT);
    if due {
        *last = Some(now);
    }
    due
}
