//! Names from Kubernetes: pods, services, nodes, and what owns them.
//!
//! [`World`] is pure: events in, changed names out. A thread with one runtime of its own follows
//! six kinds of objects and feeds it.

mod claims;
mod client;
mod listed;
mod networks;
mod nodes;
mod objects;
mod owners;
mod pods;
mod reasons;
mod services;
mod texts;
mod watch;
mod world;

#[cfg(test)]
mod tests;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, mpsc as channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::{
    runtime::{Builder, Runtime},
    sync::{mpsc, oneshot},
};

pub(crate) use client::connect;
pub use client::{KubernetesError, in_cluster};
pub use listed::Event;
pub use objects::{EndpointSlice, Job, Node, Pod, ReplicaSet, Service};
use watch::{Follower, Message};
pub use world::{Watched, World, WorldEvent};

use super::{
    Name, UNKNOWN,
    merge::{Change, News, Origin},
    names::Kind,
    status::Status,
};

/// Events that may wait for us; a watch that has more waits itself.
const WAITING: usize = 1024;

/// Events taken in at once at most.
const AT_ONCE: usize = 4096;

/// What is to be asked, and how.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// A kubeconfig; `None`: the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// Labels of pods that names carry.
    pub labels: Vec<String>,
}

/// A running watch of a cluster. Dropping it ends it.
#[derive(Debug)]
pub struct Kubernetes {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Kubernetes {
    /// Starts to follow the cluster. `tell` gets what changes, in the thread that follows; once it
    /// returns false nothing more is told. A server that does not answer is no error: it is tried
    /// again for ever.
    ///
    /// # Errors
    /// There is no way to the server: no credentials, or a kubeconfig that does not hold.
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
                        // Nobody waits any more only if the caller died.
                        let _ = ready.send(Err(error));
                        return;
                    }
                };
                let _ = ready.send(Ok(()));
                runtime.block_on(async {
                    let reader = Reader {
                        world: World::new(&settings.labels),
                        status,
                        tell,
                        complete: false,
                    };
                    tokio::select! {
                        () = follow(client, reader) => {}
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
    let client = runtime.block_on(client::connect(settings.kubeconfig.as_deref()))?;
    Ok((runtime, client))
}

async fn follow(client: kube::Client, mut reader: Reader<impl FnMut(News) -> bool>) {
    let (to, mut from) = mpsc::channel(WAITING);
    macro_rules! follow {
        ($($kind:ident => $event:ident),+) => {
            $(
                let follower = Follower {
                    kind: Watched::$kind,
                    wrap: WorldEvent::$event,
                    fields: None,
                    to: to.clone(),
                };
                tokio::spawn(follower.run(client.clone()));
            )+
        };
    }
    // Owners first: pods find their workloads then.
    follow!(
        ReplicaSets => ReplicaSet, Jobs => Job, Nodes => Node, Services => Service,
        EndpointSlices => EndpointSlice, Pods => Pod
    );
    drop(to);
    if !reader.say(everything_unknown(true)) {
        return;
    }
    let mut messages = Vec::new();
    while from.recv_many(&mut messages, AT_ONCE).await > 0 {
        if !reader.take(&mut messages) {
            return;
        }
    }
}

/// As long as not everything is known, what has no name may be anybody's.
fn everything_unknown(unknown: bool) -> Vec<Change> {
    let name = Arc::new(Name {
        kind: Kind::External,
        namespace: Some(UNKNOWN.into()),
        ..Name::default()
    });
    ["0.0.0.0/0", "::/0"]
        .map(|range| Change {
            origin: Origin::Waiting,
            range: range.parse().expect("a range"),
            name: unknown.then(|| Arc::clone(&name)),
        })
        .into()
}

/// Takes messages into the world, the status and the names.
struct Reader<T> {
    world: World,
    status: Arc<Status>,
    tell: T,
    /// All kinds that have addresses were seen as a whole.
    complete: bool,
}

impl<T: FnMut(News) -> bool> Reader<T> {
    /// False: nobody listens.
    fn take(&mut self, messages: &mut Vec<Message>) -> bool {
        let mut changes = Vec::new();
        for message in messages.drain(..) {
            match message {
                Message::Event(event) => {
                    if let Some(lag) = lag(&event) {
                        self.status.set_lag(lag);
                    }
                    self.world.take(*event, &mut changes);
                }
                Message::Alive(kind) => {
                    if let Some(broken) = self.status.alive(kind) {
                        let seconds = broken.as_secs();
                        tracing::info!("{} are followed again after {seconds} s", kind.as_str());
                    }
                }
                Message::Failed(kind, failure) => self.failed(kind, &failure),
            }
        }
        for kind in Watched::ALL {
            let (count, synced) = (self.world.count(kind), self.world.is_synced(kind));
            self.status.set_objects(kind, count, synced);
        }
        let with_addresses = [Watched::Pods, Watched::Services, Watched::Nodes];
        if !self.complete
            && with_addresses
                .iter()
                .all(|kind| self.world.is_synced(*kind))
        {
            self.complete = true;
            changes.extend(everything_unknown(false));
            let listens = self.say(changes) && (self.tell)(News::Complete);
            self.status.set_complete();
            return listens;
        }
        self.say(changes)
    }

    fn say(&mut self, changes: Vec<Change>) -> bool {
        changes.is_empty() || (self.tell)(News::Changes(changes))
    }

    /// Each reason is said once until the watch works again.
    fn failed(&self, kind: Watched, failure: &watch::Failure) {
        let reason = reasons::reason(&failure.error);
        let sentence = reasons::sentence(kind, failure);
        let said = (reason, sentence.as_str());
        if self.status.failed(kind, said, Instant::now()) {
            if reason == "gone" {
                tracing::warn!("{sentence}");
            } else {
                tracing::error!("{sentence}");
            }
        }
    }
}

/// How long a pod's change took to come to us. The server's times are whole seconds, so it is up
/// to a second too long.
fn lag(event: &WorldEvent) -> Option<Duration> {
    let WorldEvent::Pod(Event::Apply(pod)) = event else {
        return None;
    };
    let now = k8s_openapi::jiff::Timestamp::now();
    let changed = pod.changed()?;
    Some(Duration::try_from(now.duration_since(changed)).unwrap_or_default())
}
