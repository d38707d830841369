//! The question for a successor, prepared when the agent starts and asked when it ends.

use std::path::PathBuf;

use tokio::{task::JoinHandle, time::timeout};

use super::{Membership, OnExit, OwnPod, PATIENCE};
use crate::kube::{ConnectError, NoAnswer, Server, connect};

/// Knows the DaemonSet of this agent, and asks about a successor at the end.
#[derive(Debug)]
pub struct SuccessorCheck {
    /// The API client, and the DaemonSet if it was found when the agent started. None: there is no
    /// way to the API server.
    known: JoinHandle<Option<(Server, Option<Membership>)>>,
    node: String,
}

impl SuccessorCheck {
    /// Starts to find the DaemonSet of this agent, by a kubeconfig or the pod's service account.
    /// None: this process is no pod.
    #[must_use]
    pub fn prepare(kubeconfig: Option<PathBuf>, node: String) -> Option<Self> {
        OwnPod::of_environment()?;
        let here = node.clone();
        let known = tokio::spawn(async move {
            let server = connect(kubeconfig.as_deref()).await.map(Server::new);
            introduce(server, &here).await
        });
        Some(Self { known, node })
    }

    /// Asks whether a successor will come.
    pub async fn ask(mut self) -> OnExit {
        match timeout(PATIENCE, self.ask_patiently()).await {
            Ok(leaving) => leaving,
            Err(_) => OnExit::KeepPinned("the API server did not answer in time".to_owned()),
        }
    }

    async fn ask_patiently(&mut self) -> OnExit {
        let stay = |why: &str| OnExit::KeepPinned(why.to_owned());
        let Ok(Some((server, member))) = (&mut self.known).await else {
            return stay("the API server cannot be reached");
        };
        // The DaemonSet may not have been found when the agent started.
        let member = match member {
            Some(member) => Ok(Some(member)),
            None => Membership::find(&server, &self.node).await,
        };
        match member {
            Ok(Some(member)) => member.ask(&server).await,
            Ok(None) => stay("this agent does not run in a pod of a DaemonSet"),
            Err(why) => OnExit::KeepPinned(format!("the API server did not say ({why})")),
        }
    }
}

async fn introduce(
    server: Result<Server, ConnectError>,
    node: &str,
) -> Option<(Server, Option<Membership>)> {
    let server = server
        .map_err(|error| {
            tracing::warn!(%error, "the agent cannot ask about its DaemonSet: when that is deleted, the hooks stay until `pins.keep` has passed");
        })
        .ok()?;
    let member = match Membership::find(&server, node).await {
        Ok(member) => {
            if let Some(Membership { set, .. }) = &member {
                tracing::info!("this agent runs in a pod of DaemonSet {set}");
            }
            member
        }
        Err(NoAnswer::Denied(why)) => {
            tracing::error!(
                "the agent cannot ask about its DaemonSet ({why}): when that is deleted, the hooks \
                 stay until `pins.keep` has passed; allow the verbs `list` on pods and nodes and \
                 `get` on daemonsets.apps"
            );
            None
        }
        Err(error) => {
            tracing::warn!(%error, "the API server has not yet answered which DaemonSet owns this pod");
            None
        }
    };
    Some((server, member))
}
