//! Names from Kubernetes: pods, services, nodes, and the workloads that own pods.
//!
//! [`ClusterState`] is pure: events go in, changed names come out. A thread with a runtime of its
//! own follows six kinds of objects and feeds it.

mod address_owners;
mod address_reuse;
mod csi_nodes;
mod event_loop;
mod intern;
mod networks;
mod node_scope;
mod nodes;
mod objects;
mod outside;
mod owners;
mod pod_addressing;
mod pods;
mod scope_check;
mod selectors;
mod services;
mod standin;
mod state;
mod watch_set;
mod width;

#[cfg(test)]
mod tests;

use std::{
    future::pending,
    io,
    path::PathBuf,
    sync::{Arc, mpsc as channel},
    thread::{self, JoinHandle},
};

use ipnet::IpNet;
use thiserror::Error;
use tokio::{
    runtime::{Builder, Runtime},
    sync::{
        mpsc::{self, Receiver},
        oneshot,
    },
    task,
    time::{MissedTickBehavior, interval},
};

use event_loop::EventLoop;
pub use node_scope::OfNode;
use node_scope::{Api, NodeScope, TICK};
pub use objects::{CSINode, EndpointSlice, Job, Node, Pod, ReplicaSet, Service};
pub use scope_check::{NodeClaims, Outlook, check_scope};
pub use state::{ClusterState, StateEvent, Watched};
use watch_set::{Message, WatchSet};
use width::Turn;

use super::{cluster_nodes::ClusterNodes, merge::News, permits::Permits, status::Status};
use crate::kube::{ConnectError, connect};

/// Events that may wait for the event loop. A watch with more events waits itself.
const WAITING: usize = 1024;

/// Most events that are applied at once.
const AT_ONCE: usize = 4096;

/// Settings of the Kubernetes source.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Path of a kubeconfig. None: the pod's service account is used.
    pub kubeconfig: Option<PathBuf>,
    /// Labels of pods that names include.
    pub labels: Vec<String>,
    /// Pod ranges that are known without the nodes.
    pub ranges: Vec<IpNet>,
    /// Further networks of pods whose addresses count.
    pub permits: Permits,
    /// Node scope: follow the pods of one node only, and ask the other agents. None: follow the
    /// whole cluster.
    pub of_node: Option<OfNode>,
    /// What learns the list of nodes.
    pub nodes: Arc<ClusterNodes>,
}

/// Why a cluster cannot be followed.
#[derive(Debug, Error)]
pub enum KubernetesError {
    /// There is no way to the API server.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}; raise the limit of processes (ulimit -u)")]
    Thread(#[from] io::Error),
}

/// The running source. Dropping it ends it.
#[derive(Debug)]
pub struct Kubernetes {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Kubernetes {
    /// Starts to follow the cluster. `tell` receives the changes, in the thread of the event loop.
    /// Once it returns false, it is not called again. A server that does not answer is no error:
    /// the requests are retried for ever.
    ///
    /// # Errors
    /// There is no way to the server: no credentials, or an invalid kubeconfig.
    pub fn start(
        settings: Settings,
        status: Arc<Status>,
        tell: impl FnMut(News) -> bool + Send + 'static,
    ) -> Result<Self, KubernetesError> {
        let (stop, stopped) = oneshot::channel();
        let (ready, started) = channel::channel();
        let thread = thread::Builder::new()
            .name("lpm-kubernetes".to_owned())
            .spawn(move || {
                let prepared = prepare(&settings);
                let (runtime, client) = match prepared {
                    Ok(prepared) => prepared,
                    Err(error) => {
                        // The send fails only if the caller died.
                        let _ = ready.send(Err(error));
                        return;
                    }
                };
                let _ = ready.send(Ok(()));
                runtime.block_on(async {
                    let state = match settings.of_node {
                        Some(_) => ClusterState::of_a_node(&settings.labels),
                        None => ClusterState::new(&settings.labels),
                    };
                    let state = state.permitting(settings.permits);
                    let reader = EventLoop::new(state, settings.ranges, status, tell);
                    let api = Api {
                        client: client.clone(),
                        labels: settings.labels.into(),
                    };
                    let node_scope = settings.of_node.map(|of| NodeScope::new(of, api));
                    tokio::select! {
                        () = follow(client, reader, node_scope, &settings.nodes) => {}
                        _ = stopped => {}
                    }
                });
            })?;
        let died = || KubernetesError::Thread(io::Error::other("it panicked"));
        started.recv().map_err(|_| died())??;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        self.stop = None;
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the thread that follows Kubernetes panicked");
        }
    }
}

fn prepare(settings: &Settings) -> Result<(Runtime, kube::Client), KubernetesError> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let client = runtime.block_on(connect(settings.kubeconfig.as_deref()))?;
    Ok((runtime, client))
}

async fn follow(
    client: kube::Client,
    mut reader: EventLoop<impl FnMut(News) -> bool>,
    mut node_scope: Option<NodeScope>,
    nodes: &ClusterNodes,
) {
    let (to, mut from) = mpsc::channel(WAITING);
    let mut running = Running::begin(WatchSet::new(client, to), node_scope.as_ref());
    let mut messages = Vec::new();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut listens = reader.begin(node_scope.as_ref());
    while listens {
        let hear = async {
            match &mut node_scope {
                Some(node_scope) => node_scope.recv().await,
                None => pending().await,
            }
        };
        let mut heard = None;
        tokio::select! {
            _ = from.recv_many(&mut messages, AT_ONCE) => {}
            said = hear => heard = Some(said),
            _ = ticks.tick() => {}
        }
        listens = reader.take(&mut messages, heard, node_scope.as_mut());
        reader.tell_nodes(nodes);
        for wanted in reader.wanted() {
            running.watches.ask_for(wanted);
        }
        for node in reader.nodes() {
            running.watches.ask_for_node(node);
        }
        let Some(node_scope) = node_scope.as_mut().filter(|_| listens) else {
            continue;
        };
        if let Some(turn) = reader.turn() {
            running.end(&turn, &mut from, &mut messages).await;
            listens = reader.take(&mut messages, None, Some(node_scope));
            listens = listens && reader.turned(&turn, node_scope);
            running.follow(&turn, node_scope);
        }
    }
}

/// The running watches.
struct Running {
    watches: WatchSet,
    services: Option<task::JoinHandle<()>>,
    rest: Vec<task::JoinHandle<()>>,
}

impl Running {
    fn begin(watches: WatchSet, node_scope: Option<&NodeScope>) -> Self {
        let rest = match node_scope {
            Some(node_scope) => watches.of_a_node(node_scope.node()),
            None => watches.of_all(),
        };
        Self {
            services: Some(watches.services()),
            rest,
            watches,
        }
    }

    /// Ends the watches that others will replace, and reads the messages that they have sent.
    async fn end(
        &mut self,
        turn: &Turn,
        from: &mut Receiver<Message>,
        messages: &mut Vec<Message>,
    ) {
        let mut over: Vec<_> = self.rest.drain(..).collect();
        if matches!(turn, Turn::Narrow) {
            // Selectors are read from the services, which are relisted for it.
            over.extend(self.services.take());
        }
        for watch in over {
            watch.abort();
            // The watch ends at its next await, and sends nothing after that.
            let _ = watch.await;
        }
        while let Ok(message) = from.try_recv() {
            messages.push(message);
        }
    }

    fn follow(&mut self, turn: &Turn, node_scope: &NodeScope) {
        match turn {
            Turn::Widen(_) => self.rest = self.watches.of_all(),
            Turn::Narrow => {
                self.rest = self.watches.of_a_node(node_scope.node());
                self.services = Some(self.watches.services());
            }
        }
    }
}
