//! The nodes that flows of this node reach: whether passive flows between two nodes live.
//!
//! It is found at the end of each window from the flow table, whatever levels are switched on. It
//! is evidence for whoever judges a pair of nodes, and no metric.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    time::{Duration, Instant},
};

use crate::identity::{PrefixMap, names_file::Kind};

/// How long a node is remembered that no flow reaches any more.
const REMEMBERED: Duration = Duration::from_mins(10);

/// When flows of this node last measured a round trip to each node.
#[derive(Debug, Default)]
pub struct NodePairs {
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the last window began that has ended. None: none has ended yet.
    window: Option<Instant>,
    nodes: HashMap<Arc<str>, Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    /// When the window began in which the last round trip was measured.
    since: Instant,
    /// Number of flows with a round trip in that window.
    flows: usize,
}

impl NodePairs {
    /// Time since the last round trip to a node, at most: it was measured in a window that began
    /// so long ago. None: no flow of this node reached that node in the last ten minutes, or no
    /// window has ended yet.
    #[must_use]
    pub fn last_seen(&self, peer_node: &str) -> Option<Duration> {
        Some(self.read().nodes.get(peer_node)?.since.elapsed())
    }

    /// Number of flows that measured a round trip to a node in the last window. None: no window
    /// has ended yet, so nothing is known.
    #[must_use]
    pub fn flows(&self, peer_node: &str) -> Option<usize> {
        let state = self.read();
        let last = state.window?;
        let seen = state.nodes.get(peer_node);
        // A node that was only reached earlier has the time of an earlier window.
        let seen = seen.filter(|seen| seen.since == last);
        Some(seen.map_or(0, |seen| seen.flows))
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a window that began at `since` and ends now, with the number of flows that
    /// measured a round trip in it, by node.
    fn end_window(&self, since: Instant, flows: HashMap<Arc<str>, usize>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.window = Some(since);
        let kept = |_: &Arc<str>, seen: &mut Seen| seen.since.elapsed() < REMEMBERED;
        state.nodes.retain(kept);
        let seen = flows.into_iter();
        let seen = seen.map(|(node, flows)| (node, Seen { since, flows }));
        state.nodes.extend(seen);
    }
}

/// A window that is ending: counts the flows in it by the node that they reach.
pub(super) struct Reached<'a> {
    names: Arc<PrefixMap>,
    backend: &'a dyn Fn(SocketAddr, SocketAddr) -> Option<SocketAddr>,
    flows: HashMap<Arc<str>, usize>,
}

impl<'a> Reached<'a> {
    /// Starts with no flow. `backend` gives who answers a connection in place of its remote end.
    pub(super) fn new(
        names: Arc<PrefixMap>,
        backend: &'a dyn Fn(SocketAddr, SocketAddr) -> Option<SocketAddr>,
    ) -> Self {
        Self {
            names,
            backend,
            flows: HashMap::new(),
        }
    }

    /// Counts a flow between these ends that measured a round trip to the remote end. It is left
    /// out if the node of the remote end is not known.
    pub(super) fn count(&mut self, (local, remote): (SocketAddr, SocketAddr)) {
        let Some(mut name) = self.names.lookup(remote.ip()) else {
            return;
        };
        if name.kind == Kind::Service {
            let backend = (self.backend)(local, remote);
            let Some(behind) = backend.and_then(|backend| self.names.lookup(backend.ip())) else {
                return;
            };
            name = behind;
        }
        if let Some(node) = name.node.as_ref() {
            *self.flows.entry(Arc::clone(node)).or_default() += 1;
        }
    }

    /// Ends the window, which began at `since`.
    pub(super) fn end(self, pairs: &NodePairs, since: Instant) {
        pairs.end_window(since, self.flows);
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::atomic::Ordering};

    use super::*;
    use crate::passive::{
        flow::tests::fill,
        model::tests::{model, tables},
    };

    const NAMES: &str = "- {address: 198.18.1.1, namespace: a, pod: web, node: n1}\n\
         - {address: 198.18.2.1, namespace: a, pod: db, node: n2}\n\
         - {address: 198.18.3.1, namespace: a, pod: lost}\n\
         - {address: 198.19.0.1, namespace: a, service: db}\n";

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_model_finds_them_in_the_flow_table() {
        let tables = tables(&[]);
        // One measured a round trip to the other end, one only to its own end, one none.
        for (at, leg) in [(1, Some(0)), (2, Some(1)), (3, None)] {
            fill(&tables.flows[at], at as u64, 1);
            if let Some(leg) = leg {
                let min = &tables.flows[at].slots[leg].window_min;
                min.store(1000, Ordering::Relaxed);
            }
        }
        let model = model(tables);
        let name = "- {cidr: 198.18.9.0/24, namespace: b, pod: db, node: n2}\n";
        let names = PrefixMap::parse(name, Path::new("names.yaml")).expect("names");
        model.registry().replace(&names, &[]);
        let pairs = Arc::clone(model.node_pairs());
        model.end_window().expect("a window");
        assert_eq!(pairs.flows("n2"), Some(1));
        model.end_window().expect("a window");
        assert_eq!(pairs.flows("n2"), Some(0), "nothing came back since");
        assert!(pairs.last_seen("n2").is_some());
    }

    #[test]
    fn a_window_tells_which_nodes_were_reached() {
        let names = PrefixMap::parse(NAMES, Path::new("names.yaml")).expect("names");
        let names = Arc::new(names);
        let service = at("198.19.0.1:80");
        let backend = |from: SocketAddr, to: SocketAddr| {
            (to == service && from.port() == 1).then(|| at("198.18.2.1:8080"))
        };
        let pairs = NodePairs::default();
        assert_eq!(pairs.flows("n2"), None, "no window has ended");
        let window = |since, flows: &[(&str, &str)]| {
            let mut reached = Reached::new(Arc::clone(&names), &backend);
            for (from, to) in flows {
                reached.count((at(from), at(to)));
            }
            reached.end(&pairs, since);
        };
        let now = Instant::now();
        let begun = now.checked_sub(Duration::from_secs(10)).expect("a time");
        let flows = [
            ("198.18.1.1:1", "198.18.2.1:80"),
            ("198.18.1.1:2", "198.18.3.1:80"),
            ("198.18.1.1:3", "192.0.2.1:80"),
            ("198.18.1.1:1", "198.19.0.1:80"),
            ("198.18.1.1:2", "198.19.0.1:80"),
        ];
        window(begun, &flows);
        assert_eq!(pairs.flows("n2"), Some(2), "one of them by the service");
        assert_eq!(pairs.flows("n1"), Some(0));
        assert_eq!(pairs.flows("n3"), Some(0));
        let age = pairs.last_seen("n2").expect("a time");
        assert!(age >= Duration::from_secs(10), "{age:?}");
        assert_eq!(pairs.last_seen("n3"), None);
        // Nothing came back in the next window. When it last did is still known.
        window(now, &[]);
        assert_eq!(pairs.flows("n2"), Some(0));
        assert!(pairs.last_seen("n2").expect("a time") >= age);
        // It is forgotten after some time.
        let long_ago = now.checked_sub(REMEMBERED).expect("a time");
        window(long_ago, &flows);
        window(now, &[]);
        assert_eq!(pairs.last_seen("n2"), None);
    }
}
