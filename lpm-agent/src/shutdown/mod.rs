//! Decides what happens to the data path when the agent is told to end. In a DaemonSet, a successor
//! may come, or none.
//!
//! A rollout deletes the pod. So does the deletion of its DaemonSet, or the removal of a node's
//! label. Only the API server knows which one happened. It is asked once, for as long as a kubelet
//! waits anyway. Without an answer everything stays: the next agent adopts it, and if none comes,
//! the programs rest after `pins.keep`.
//! none comes the programs rest after `pins.keep`.

mod daemonset;
mod successor;

use std::{env, fmt, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use crate::kube::{List, NoAnswer, ObjectReader, read};
pub use daemonset::{DaemonSet, Node};
pub use successor::SuccessorCheck;

/// Time within which the API server must answer all requests.
const PATIENCE: Duration = Duration::from_secs(5);

/// The action to take at the agent's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnExit {
    /// Leave the data path pinned for the next agent. The text says why.
    KeepPinned(String),
    /// Detach everything. The text says why.
    Detach(String),
}

impl fmt::Display for OnExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeepPinned(why) => write!(
                f,
                "the kernel programs go on measuring for the next agent: {why}"
            ),
            Self::Detach(why) => write!(f, "detaching from all interfaces: {why}"),
        }
    }
}

/// The DaemonSet that this agent belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    namespace: String,
    set: String,
    node: String,
}

#[derive(Deserialize)]
struct Pod {
    metadata: ObjectMeta,
}

impl Membership {
    /// Finds the DaemonSet by the pod's name, namespace and node from the downward API (`POD_NAME`,
    /// `POD_NAMESPACE`). It reads the DaemonSet too, so that a missing permission is reported now
    /// and not when it matters. None: this process is no pod of a DaemonSet.
    ///
    /// # Errors
    /// The API server does not answer, or it refuses: without it the data path is always left.
    pub async fn find(api: &impl ObjectReader, node: &str) -> Result<Option<Self>, NoAnswer> {
        let Some(pod) = OwnPod::of_environment() else {
            return Ok(None);
        };
        Self::of_pod(api, &pod, node).await
    }

    async fn of_pod(
        api: &impl ObjectReader,
        pod: &OwnPod,
        node: &str,
    ) -> Result<Option<Self>, NoAnswer> {
        // A list with one element: pods may be listed, but not read one by one.
        let OwnPod { namespace, name } = pod;
        let path =
            format!("/api/v1/namespaces/{namespace}/pods?fieldSelector=metadata.name%3D{name}");
        let pods: List<Pod> = read(api, &path).await?;
        let owners = pods
            .items
            .into_iter()
            .flat_map(|pod| pod.metadata.owner_references.unwrap_or_default());
        let Some(owner) = owners
            .into_iter()
            .find(|owner| owner.controller == Some(true) && owner.kind == "DaemonSet")
        else {
            return Ok(None);
        };
        let found = Self {
            namespace: namespace.clone(),
            set: owner.name,
            node: node.to_owned(),
        };
        found.daemon_set(api).await?;
        Ok(Some(found))
    }

    async fn daemon_set(&self, api: &impl ObjectReader) -> Result<DaemonSet, NoAnswer> {
        let Self { namespace, set, .. } = self;
        read(
            api,
            &format!("/apis/apps/v1/namespaces/{namespace}/daemonsets/{set}"),
        )
        .await
    }

    /// Asks whether a successor will come.
    pub async fn ask(&self, api: &impl ObjectReader) -> OnExit {
        match tokio::time::timeout(PATIENCE, self.ask_patiently(api)).await {
            Ok(leaving) => leaving,
            Err(_) => OnExit::KeepPinned("the API server did not answer in time".to_owned()),
        }
    }

    async fn ask_patiently(&self, api: &impl ObjectReader) -> OnExit {
        let Self { set, node, .. } = self;
        let stay =
            |why: &NoAnswer| OnExit::KeepPinned(format!("the API server did not say ({why})"));
        let daemon_set = match self.daemon_set(api).await {
            Ok(daemon_set) => daemon_set,
            Err(NoAnswer::NotFound) => return OnExit::Detach(format!("DaemonSet {set} is gone")),
            // Reading was allowed when the agent started. The permission went with the DaemonSet.
            Err(NoAnswer::Denied(_)) => {
                return OnExit::Detach(format!("the agent may no longer read DaemonSet {set}"));
            }
            Err(why) => return stay(&why),
        };
        if daemon_set.is_going() {
            return OnExit::Detach(format!("DaemonSet {set} is being deleted"));
        }
        let path = format!("/api/v1/nodes?fieldSelector=metadata.name%3D{node}");
        let nodes: Result<List<Node>, NoAnswer> = read(api, &path).await;
        match nodes.map(|nodes| nodes.items.into_iter().next()) {
            Ok(Some(found)) if daemon_set.selects(&found) => {
                OnExit::KeepPinned(format!("DaemonSet {set} still wants node {node}"))
            }
            Ok(Some(_)) => OnExit::Detach(format!("DaemonSet {set} no longer selects node {node}")),
            Ok(None) => OnExit::Detach(format!("node {node} no longer exists")),
            Err(why) => stay(&why),
        }
    }
}

/// The pod that this process runs in.
struct OwnPod {
    namespace: String,
    name: String,
}

impl OwnPod {
    /// Reads it from the downward API.
    fn of_environment() -> Option<Self> {
        let of = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        Some(Self {
            namespace: of("POD_NAMESPACE")?,
            name: of("POD_NAME")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;

    /// Test answers, by the beginning of the path.
    struct Answers(BTreeMap<&'static str, Result<Value, NoAnswer>>);

    impl ObjectReader for Answers {
        async fn read(&self, path: &str) -> Result<Value, NoAnswer> {
            match self.0.iter().find(|(begin, _)| path.starts_with(**begin)) {
                Some((_, answer)) => answer.clone(),
                None => std::future::pending().await,
            }
        }
    }

    const PODS: &str = "/api/v1/namespaces/lpm/pods";
    const SET: &str = "/apis/apps/v1/namespaces/lpm/daemonsets/lpm";
    const NODES: &str = "/api/v1/nodes";

    fn set() -> Value {
        json!({"metadata": {"name": "lpm"},
            "spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/os": "linux"}}}}})
    }

    fn nodes(os: &str) -> Value {
        json!({"items": [{"metadata": {"name": "n1", "labels": {"kubernetes.io/os": os}}}]})
    }

    fn ask(set: Result<Value, NoAnswer>, nodes: Result<Value, NoAnswer>) -> OnExit {
        let member = Membership {
            namespace: "lpm".to_owned(),
            set: "lpm".to_owned(),
            node: "n1".to_owned(),
        };
        let answers = Answers(BTreeMap::from([(SET, set), (NODES, nodes)]));
        block_on(member.ask(&answers))
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        // The runtime's time is paused, so nobody waits for it.
        let runtime = builder.enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(future)
    }

    #[test]
    fn it_stays_for_a_successor_only() {
        let detaches = |leaving| matches!(leaving, OnExit::Detach(_));
        let (yes, no) = (Ok(nodes("linux")), Ok(nodes("plan9")));
        assert!(!detaches(ask(Ok(set()), yes.clone())));
        assert!(detaches(ask(Ok(set()), no)));
        assert!(detaches(ask(Ok(set()), Ok(json!({"items": []})))));
        assert!(detaches(ask(Err(NoAnswer::NotFound), yes.clone())));
        let denied = NoAnswer::Denied("no".to_owned());
        assert!(detaches(ask(Err(denied.clone()), yes.clone())));
        let mut going = set();
        going["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
        assert!(detaches(ask(Ok(going), yes.clone())));
        // Without an answer the data path stays.
        let failed = NoAnswer::Failed("connection refused".to_owned());
        assert!(!detaches(ask(Err(failed.clone()), yes)));
        assert!(!detaches(ask(Ok(set()), Err(failed))));
        assert!(!detaches(ask(Ok(set()), Err(denied))));
    }

    #[test]
    fn a_server_that_does_not_answer() {
        let member = Membership {
            namespace: "lpm".to_owned(),
            set: "lpm".to_owned(),
            node: "n1".to_owned(),
        };
        let leaving = block_on(member.ask(&Answers(BTreeMap::new())));
        assert!(matches!(leaving, OnExit::KeepPinned(_)), "{leaving}");
    }

    #[test]
    fn whose_pod_it_is() {
        let find = |owners: Value, set: Result<Value, NoAnswer>| {
            let pods =
                json!({"items": [{"metadata": {"name": "lpm-x", "ownerReferences": owners}}]});
            let answers = Answers(BTreeMap::from([(PODS, Ok(pods)), (SET, set)]));
            let pod = OwnPod {
                namespace: "lpm".to_owned(),
                name: "lpm-x".to_owned(),
            };
            block_on(Membership::of_pod(&answers, &pod, "n1"))
        };
        let owner = json!([{"kind": "DaemonSet", "name": "lpm", "controller": true}]);
        let found = find(owner.clone(), Ok(set())).expect("an answer");
        assert_eq!(found.expect("a DaemonSet").set, "lpm");
        let other = json!([{"kind": "ReplicaSet", "name": "lpm", "controller": true}]);
        assert_eq!(find(other, Ok(set())), Ok(None));
        let denied = NoAnswer::Denied("daemonsets.apps \"lpm\" is forbidden".to_owned());
        assert_eq!(
            find(owner, Err(denied.clone())),
            Err(denied),
            "told at once"
        );
    }
}
