//! Which objects are watched.

use kube::{Api, Client, Resource, api::ListParams};
use serde::de::DeserializeOwned;
use tokio::{sync::mpsc::Sender, task::JoinHandle};

use super::{
    listed::Event,
    objects::{EndpointSlice, Job, Node, Pod, ReplicaSet, Service},
    owners::{Between, Wanted},
    watch::{Failure, Follower, Message},
    world::{Watched, WorldEvent},
};

/// Starts watches; what they say goes to one place.
pub(super) struct Watches {
    client: Client,
    to: Sender<Message>,
}

impl Watches {
    pub(super) fn new(client: Client, to: Sender<Message>) -> Self {
        Self { client, to }
    }

    /// All that there is. Owners first: pods find their workloads then.
    pub(super) fn of_all(&self) {
        self.owners();
        self.nodes_and_services();
        self.slices_and_pods();
    }

    /// The pods of one node, and what every agent needs: nodes tell whom to ask, services have
    /// addresses of their own. Endpoint slices are as many as pods, and change as often; selectors tell the same of
    /// the node's own pods. Replica sets and jobs are asked for one by one.
    pub(super) fn of_a_node(&self, node: &str) -> JoinHandle<()> {
        self.nodes_and_services();
        let fields = Some(format!("spec.nodeName={node}"));
        self.follow::<Pod>(Watched::Pods, WorldEvent::Pod, fields)
    }

    /// All that [`Self::of_a_node`] leaves out, and all pods.
    pub(super) fn beyond_a_node(&self) {
        self.owners();
        self.slices_and_pods();
    }

    /// Asks for an owner of pods, once.
    pub(super) fn ask_for(&self, wanted: Wanted) {
        let (client, to) = (self.client.clone(), self.to.clone());
        tokio::spawn(async move {
            match wanted.of {
                Between::ReplicaSet => {
                    ask::<ReplicaSet>(
                        client,
                        &wanted,
                        Watched::ReplicaSets,
                        WorldEvent::ReplicaSet,
                        to,
                    )
                    .await;
                }
                Between::Job => {
                    ask::<Job>(client, &wanted, Watched::Jobs, WorldEvent::Job, to).await;
                }
            }
        });
    }

    fn owners(&self) {
        self.follow::<ReplicaSet>(Watched::ReplicaSets, WorldEvent::ReplicaSet, None);
        self.follow::<Job>(Watched::Jobs, WorldEvent::Job, None);
    }

    fn nodes_and_services(&self) {
        self.follow::<Node>(Watched::Nodes, WorldEvent::Node, None);
        self.follow::<Service>(Watched::Services, WorldEvent::Service, None);
    }

    fn slices_and_pods(&self) {
        self.follow::<EndpointSlice>(Watched::EndpointSlices, WorldEvent::EndpointSlice, None);
        self.follow::<Pod>(Watched::Pods, WorldEvent::Pod, None);
    }

    fn follow<K>(
        &self,
        kind: Watched,
        wrap: fn(Event<K>) -> WorldEvent,
        fields: Option<String>,
    ) -> JoinHandle<()>
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
    {
        let follower = Follower {
            kind,
            wrap,
            fields,
            to: self.to.clone(),
        };
        tokio::spawn(follower.run(self.client.clone()))
    }
}

/// A list of one, so that the right to list is enough. What fails is not tried again: the pod goes by
/// its owner's name then, and not by what is above it.
async fn ask<K>(
    client: Client,
    wanted: &Wanted,
    kind: Watched,
    wrap: fn(Event<K>) -> WorldEvent,
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
        // Nobody listens any more: the agent ends.
        if to.send(message).await.is_err() {
            return;
        }
    }
}
