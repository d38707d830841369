//! Checks once whether node scope would work here, for `lpm check`.

use std::{
    fmt::Debug,
    path::Path,
    time::{Duration, Instant},
};

use kube::{Api, Client, Resource, api::ListParams};
use serde::de::DeserializeOwned;

use super::{
    objects::{Node, Pod},
    pod_addressing::{AddressingCheck, PodAddressing},
    state::{ClusterState, StateEvent, Watched},
};
use crate::kube::{ConnectError, Event, Failure, connect};

/// A time that is longer than any patience of [`AddressingCheck`].
const LATER: Duration = Duration::from_mins(1);

/// The scope that this node would get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// Node scope works.
    Holds,
    /// Node scope works as far as it is visible: no pod of the node has shown it yet.
    NoPods,
    /// The whole cluster would be followed. The sentence says why.
    Cluster(String),
    /// The API server does not answer. The text is its error.
    Unanswered(String),
}

/// Asks the API server for a node and its pods.
pub async fn check_scope(kubeconfig: Option<&Path>, node: &str) -> Result<Outlook, ConnectError> {
    let client = connect(kubeconfig).await?;
    let mut state = ClusterState::of_a_node(&[]);
    let (this, its) = (
        format!("metadata.name={node}"),
        format!("spec.nodeName={node}"),
    );
    let read = async {
        let nodes = Watched::Nodes;
        list::<Node>(&client, (nodes, StateEvent::Node), &this, &mut state).await?;
        list::<Pod>(&client, (Watched::Pods, StateEvent::Pod), &its, &mut state).await
    };
    if let Err(sentence) = read.await {
        return Ok(Outlook::Unanswered(sentence));
    }
    let (mut addressing, now) = (AddressingCheck::new(node.into()), Instant::now());
    addressing.look(&state, now);
    Ok(match addressing.look(&state, now + LATER) {
        PodAddressing::PerNode => Outlook::Holds,
        PodAddressing::Unknown => Outlook::NoPods,
        PodAddressing::Flat(why) => Outlook::Cluster(why),
    })
}

async fn list<K>(
    client: &Client,
    (kind, wrap): (Watched, fn(Event<K>) -> StateEvent),
    fields: &str,
    state: &mut ClusterState,
) -> Result<(), String>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::all(client.clone());
    let found = api.list(&ListParams::default().fields(fields)).await;
    let found = found.map_err(|error| {
        let failure = Failure {
            verb: "list",
            error,
        };
        failure.sentence(kind.described())
    })?;
    let objects = found.items.into_iter().map(Event::InitApply);
    let events = [Event::Init].into_iter().chain(objects);
    for event in events.chain([Event::InitDone]) {
        state.take(wrap(event), &mut Vec::new());
    }
    Ok(())
}
