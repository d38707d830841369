//! Stand-in: while the agent of a node does not answer, the API server provides the names of its
//! pods.
//!
//! An agent that is replaced is away for some seconds, and its node's pods talk on. So their names
//! come from where the agent has them: one list and one watch of that node's pods, until the agent
//! answers again. They are believed as an agent's are: for [`crate::mesh::LEASE`] after the watch was
//! last seen to work.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use kube::Client;
use tokio::{
    sync::mpsc::{self, Sender},
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    state::{ClusterState, StateEvent, Watched},
    watch_set::Message,
};
use crate::{
    identity::{
        Name,
        merge::{Change, Moved, Origin},
        peers::{Line, Named, PeerMessage},
    },
    kube::Follower,
    mesh::{HEARTBEAT, PeerConnection},
};

/// Most nodes with a stand-in at once. An agent need not follow the whole cluster because its port
/// is closed everywhere.
pub(super) const MOST: usize = 16;

/// Longest random delay of a stand-in after an agent fell silent. The agent's names are believed
/// for longer, and its listeners do not all come at once.
const SPREAD: Duration = Duration::from_millis(1500);

/// Events that may wait, and are applied at once.
const WAITING: usize = 256;

/// State of a stand-in: the pods of one node.
struct View {
    node: Arc<str>,
    state: ClusterState,
    names: BTreeMap<IpAddr, Arc<Name>>,
    /// True: the watch works, as far as is known.
    works: bool,
    moved: Vec<Moved>,
}

/// Sends the names of a node's pods until the receiver has gone.
pub(super) async fn stand_in(
    client: Client,
    node: Arc<str>,
    labels: Arc<[String]>,
    to: Sender<(u64, PeerMessage)>,
) {
    sleep(SPREAD.mul_f64(fastrand::f64())).await;
    let (events, mut from) = mpsc::channel(WAITING);
    let follower = Follower {
        kind: Watched::Pods,
        wrap: StateEvent::Pod,
        fields: Some(format!("spec.nodeName={node}")),
        every: None,
        to: events,
    };
    let _following = PeerConnection(tokio::spawn(follower.run(client)).abort_handle());
    let mut view = View::new(node, &labels);
    let mut messages = Vec::new();
    let mut ticks = interval(HEARTBEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = from.recv_many(&mut messages, WAITING) => {}
            _ = ticks.tick() => {}
        }
        for message in messages.drain(..) {
            view.take(message);
        }
        if let Some(line) = view.line()
            && to.send((0, PeerMessage::InPlace(line))).await.is_err()
        {
            return;
        }
    }
}

impl View {
    fn new(node: Arc<str>, labels: &[String]) -> Self {
        Self {
            node,
            state: ClusterState::of_a_node(labels),
            names: BTreeMap::new(),
            works: false,
            moved: Vec::new(),
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Event(event) => {
                let mut changes = Vec::new();
                self.moved.extend(self.state.moved(&event));
                self.state.take(*event, &mut changes);
                for change in changes {
                    self.change(change);
                }
            }
            Message::Alive(_) => self.works = true,
            // The watch of the agent's own pods logs the error, if it is the server's.
            Message::Failed(..) => self.works = false,
        }
    }

    fn change(
        &mut self,
        Change {
            origin,
            range,
            name,
        }: Change,
    ) {
        if origin != Origin::Pod {
            return;
        }
        match name.filter(|name| name.node.as_ref() == Some(&self.node)) {
            Some(name) => self.names.insert(range.addr(), name),
            None => self.names.remove(&range.addr()),
        };
    }

    /// All names of the node's pods. None: they are not known, or may not be true any more.
    fn line(&mut self) -> Option<Line> {
        if !self.works || !self.state.is_synced(Watched::Pods) {
            return None;
        }
        let named = self.names.iter().map(|(address, name)| Named {
            address: *address,
            name: Arc::clone(name),
        });
        Some(Line {
            all: Some(named.collect()),
            moved: std::mem::take(&mut self.moved),
            ..Line::of(&self.node)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::objects::Pod, *};
    use crate::kube::Event;

    fn pod(name: &str, node: &str, address: &str) -> Pod {
        let object = json!({"metadata": {"name": name, "namespace": "shop", "uid": name},
            "spec": {"nodeName": node}, "status": {"phase": "Running", "podIP": address}});
        serde_json::from_value(object).expect("a pod")
    }

    #[test]
    fn names_are_told_while_the_watch_works() {
        let mut view = View::new("n2".into(), &[]);
        let said = |view: &mut View, event| {
            view.take(Message::Event(Box::new(StateEvent::Pod(event))));
            let line = view.line()?;
            let named = line.all.expect("all names");
            let word = |named: &Named| {
                let pod = named.name.pod.as_deref().unwrap_or_default();
                format!("{} {pod}", named.address)
            };
            Some(named.iter().map(word).collect::<Vec<_>>().join(", "))
        };
        assert_eq!(said(&mut view, Event::Init), None);
        let web = || pod("web", "n2", "198.18.2.1");
        assert_eq!(said(&mut view, Event::InitApply(web())), None);
        assert_eq!(said(&mut view, Event::InitDone), None, "it is not watched");
        view.take(Message::Alive(Watched::Pods));
        let with = said(&mut view, Event::Apply(pod("db", "n2", "198.18.2.2")));
        assert_eq!(with.as_deref(), Some("198.18.2.1 web, 198.18.2.2 db"));
        let with = said(&mut view, Event::Apply(pod("x", "n3", "198.18.2.3")));
        assert_eq!(with.as_deref(), Some("198.18.2.1 web, 198.18.2.2 db"));
        let without = said(&mut view, Event::Delete(web()));
        assert_eq!(without.as_deref(), Some("198.18.2.2 db"));
        view.works = false;
        assert!(view.line().is_none(), "nobody knows whether that holds");
    }
}
