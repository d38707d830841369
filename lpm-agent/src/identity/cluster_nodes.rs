//! The nodes of the cluster, for whoever needs all of them and not one by its address.

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClusterNode {
    /// The node's name.
    pub name: Arc<str>,
    /// Address at which other nodes reach what runs in the node's network: its first `InternalIP`.
    /// None: it has none yet.
    pub address: Option<IpAddr>,
    /// The label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
}

/// What is called with each new list.
type Follower = Box<dyn Fn(&Arc<[ClusterNode]>) + Send + Sync>;

/// The list of nodes as the API server has it, sorted by name.
#[derive(Default)]
pub struct ClusterNodes(Mutex<State>);

#[derive(Default)]
struct State {
    /// The number of the list. None: the nodes are not known yet.
    version: Option<u64>,
    list: Arc<[ClusterNode]>,
    follower: Option<Follower>,
}

impl ClusterNodes {
    /// Replaces the list, if its number is another one than before.
    pub(super) fn set(&self, version: u64, list: impl FnOnce() -> Vec<ClusterNode>) {
        let mut state = self.state();
        if state.version == Some(version) {
            return;
        }
        let mut list = list();
        list.sort_unstable();
        let is_first = state.version.replace(version).is_none();
        if !is_first && *state.list == *list {
            return;
        }
        state.list = list.into();
        state.tell();
    }

    /// Calls `follower` with the list, if it is known, and with each one that comes. It replaces an
    /// earlier follower. It is called in the thread that follows the cluster, and must not block.
    pub fn follow(&self, follower: impl Fn(&Arc<[ClusterNode]>) + Send + Sync + 'static) {
        let mut state = self.state();
        state.follower = Some(Box::new(follower));
        state.tell();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tell(&self) {
        if let (Some(follower), Some(_)) = (&self.follower, self.version) {
            follower(&self.list);
        }
    }
}

impl fmt::Debug for ClusterNodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&*self.state().list).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn node(name: &str) -> ClusterNode {
        ClusterNode {
            name: name.into(),
            address: None,
            zone: None,
        }
    }

    #[test]
    fn a_follower_hears_each_list_once() {
        let nodes = ClusterNodes::default();
        let (tell, told) = mpsc::channel();
        nodes.follow(move |list| tell.send(list.len()).expect("a receiver"));
        assert!(told.try_recv().is_err(), "nothing is known yet");
        nodes.set(0, Vec::new);
        nodes.set(0, || unreachable!("it is the same list"));
        nodes.set(1, || vec![node("b"), node("a")]);
        nodes.set(2, || vec![node("a"), node("b")]);
        nodes.set(3, || vec![node("a")]);
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [0, 2, 1]);
        let (tell, told) = mpsc::channel();
        nodes.follow(move |list| tell.send(list.len()).expect("a receiver"));
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [1]);
    }
}
