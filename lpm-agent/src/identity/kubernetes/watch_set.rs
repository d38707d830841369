//! The set of watches: which kinds of objects are watched, and which are requested one by one.

use std::time::Duration;

use kube::{Api, Client, Resource, api::ListParams};
use serde::de::DeserializeOwned;
use tokio::{sync::mpsc::Sender, task::JoinHandle};

use super::{
    objects::{CSINode, EndpointSlice, Job, Node, Pod, ReplicaSet, Service},
    owners::{Between, Wanted},
    state::{StateEvent, Watched},
};
use crate::kube::{self as api, Event, Failure, Follower};

/// Interval between relists of nodes where they are not watched. They find what was missed, and
/// addresses that a node gets late in its life.
const NODES_EVERY: Duration = Duration::from_hours(6);

/// When a new node is requested again. It gets its pod range, and the annotations of CNIs, after it
/// was made.
const NODE_AGAIN: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(8),
    Duration::from_secs(30),
    Duration::from_mins(2),
];

/// Follow all objects of a kind, by a watch.
const FULLY: (Option<String>, Option<Duration>) = (None, None);

/// A message of a watch of this cluster.
pub(super) type Message = api::Message<StateEvent, Watched>;

/// Starts watches, which all send their messages to one place.
pub(super) struct WatchSet {
    client: Client,
    to: Sender<Message>,
}

impl WatchSet {
    pub(super) fn new(client: Client, to: Sender<Message>) -> Self {
        Self { client, to }
    }

    /// Watches services. Every agent needs them: they have addresses of their own.
    pub(super) fn services(&self) -> JoinHandle<()> {
        self.follow::<Service>(Watched::Services, StateEvent::Service, FULLY)
    }

    /// Watches the pods of one node, and lists nodes, whose addresses are those of the agents to
    /// ask. Endpoint slices are left out: they are as many as pods, and change as often. Selectors
    /// tell the same of the node's own pods. Replica sets and jobs are requested one by one, and so
    /// are nodes after they were listed.
    pub(super) fn of_a_node(&self, node: &str) -> Vec<JoinHandle<()>> {
        let arrivals = self.follow::<CSINode>(Watched::CsiNodes, StateEvent::CsiNode, FULLY);
        let rarely = (None, Some(NODES_EVERY));
        let nodes = self.follow::<Node>(Watched::Nodes, StateEvent::Node, rarely);
        let its = (Some(format!("spec.nodeName={node}")), None);
        let pods = self.follow::<Pod>(Watched::Pods, StateEvent::Pod, its);
        vec![arrivals, nodes, pods]
    }

    /// Watches all pods, and all kinds that [`Self::of_a_node`] leaves out. Owners come first, so
    /// that pods find their workloads.
    pub(super) fn of_all(&self) -> Vec<JoinHandle<()>> {
        vec![
            self.follow::<ReplicaSet>(Watched::ReplicaSets, StateEvent::ReplicaSet, FULLY),
            self.follow::<Job>(Watched::Jobs, StateEvent::Job, FULLY),
            self.follow::<Node>(Watched::Nodes, StateEvent::Node, FULLY),
            self.follow::<EndpointSlice>(Watched::EndpointSlices, StateEvent::EndpointSlice, FULLY),
            self.follow::<Pod>(Watched::Pods, StateEvent::Pod, FULLY),
        ]
    }

    /// Requests a node that may have come or gone.
    pub(super) fn ask_for_node(&self, name: String) {
        tokio::spawn(ask_for_node(self.client.clone(), name, self.to.clone()));
    }

    /// Requests an owner of pods, once.
    pub(super) fn ask_for(&self, wanted: Wanted) {
        let (client, to) = (self.client.clone(), self.to.clone());
        tokio::spawn(async move {
            match wanted.of {
                Between::ReplicaSet => {
                    ask::<ReplicaSet>(
                        client,
                        &wanted,
                        Watched::ReplicaSets,
                        StateEvent::ReplicaSet,
                        to,
                    )
                    .await;
                }
                Between::Job => {
                    ask::<Job>(client, &wanted, Watched::Jobs, StateEvent::Job, to).await;
                }
            }
        });
    }

    fn follow<K>(
        &self,
        kind: Watched,
        wrap: fn(Event<K>) -> StateEvent,
        (fields, every): (Option<String>, Option<Duration>),
    ) -> JoinHandle<()>
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
    {
        let follower = Follower {
            kind,
            wrap,
            fields,
            every,
            to: self.to.clone(),
        };
        tokio::spawn(follower.run(self.client.clone()))
    }
}

/// Requests one object by a list with one element, so that the right to list is enough. A failure
/// is not retried. The pod then has its owner's name, and not the name of what is above it.
async fn ask<K>(
    client: Client,
    wanted: &Wanted,
    kind: Watched,
    wrap: fn(Event<K>) -> StateEvent,
    to: Sender<Message>,
) where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client, &wanted.namespace);
    let only = ListParams::default().fields(&format!("metadata.name={}", wanted.name));
    let messages = match api.list(&only).await {
        Ok(found) => {
            let events = found
                .items
                .into_iter()
                .map(|owner| wrap(Event::Apply(owner)));
            events
                .map(|event| Message::Event(Box::new(event)))
                .collect()
        }
        Err(error) => vec![Message::Failed(
            kind,
            Failure {
                verb: "list",
                error,
            },
        )],
    };
    for message in messages {
        // The receiver has gone: the agent ends.
        if to.send(message).await.is_err() {
            return;
        }
    }
}

/// Requests a node now, and some times later while it exists.
async fn ask_for_node(client: Client, name: String, to: Sender<Message>) {
    let api: Api<Node> = Api::all(client);
    let only = ListParams::default().fields(&format!("metadata.name={name}"));
    for after in NODE_AGAIN {
        tokio::time::sleep(after).await;
        let (message, there) = match api.list(&only).await {
            Ok(found) => {
                let node = found.items.into_iter().next();
                let there = node.is_some();
                let gone = || StateEvent::NoNode(name.clone());
                let event = node.map_or_else(gone, |node| StateEvent::Node(Event::Apply(node)));
                (Message::Event(Box::new(event)), there)
            }
            Err(error) => {
                let failure = Failure {
                    verb: "list",
                    error,
                };
                (Message::Failed(Watched::Nodes, failure), true)
            }
        };
        if to.send(message).await.is_err() || !there {
            return;
        }
    }
}
