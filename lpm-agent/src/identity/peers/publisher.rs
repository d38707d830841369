//! Publishes the names of this node's pods to other agents.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::body::Bytes;
use futures_util::{Stream, stream};
use ipnet::IpNet;
use thiserror::Error;
use tokio::sync::broadcast::{self, Receiver, error::RecvError};

use super::{Line, Named};
use crate::identity::{
    Name,
    merge::{Change, Moved, Origin},
};

/// Lines that may wait for a slow listener. A listener that falls further behind gets all names
/// again.
const WAITING: usize = 64;

/// Most agents that may listen: as many as the largest clusters have nodes.
const LISTENERS: usize = 6_000;

/// Why an agent gets no names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Names are not published by this agent.
    #[error("this agent does not serve names: its identity.kubernetes.scope is not node")]
    Closed,
    /// Not all pods are known yet, or the node is not part of the cluster.
    #[error("this agent does not know its node's pods yet: ask again")]
    NotYet,
    /// Too many agents listen.
    #[error("too many agents subscribe to this agent: ask again later")]
    Full,
    /// The client's address is not that of a node.
    #[error("names are served only to addresses of the cluster's nodes, and to this machine")]
    Stranger,
}

/// Holds the names of this node's pods, and sends them to the listeners.
#[derive(Debug)]
pub struct NamePublisher {
    inner: Mutex<Inner>,
    lines: broadcast::Sender<Bytes>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Name of this node. None: nothing is published.
    node: Option<Arc<str>>,
    names: BTreeMap<IpAddr, Arc<Name>>,
    /// True: these are all names, and the node is part of the cluster.
    whole: bool,
    /// Addresses of the clients that may ask.
    nodes: HashSet<IpAddr>,
}

impl Default for NamePublisher {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            lines: broadcast::channel(WAITING).0,
        }
    }
}

impl NamePublisher {
    /// Starts to publish the names of this node's pods, once all are known.
    pub(crate) fn open(&self, node: Arc<str>) {
        self.inner().node = Some(node);
    }

    /// Sets the addresses of the clients that may ask.
    pub(crate) fn admit(&self, nodes: HashSet<IpAddr>) {
        self.inner().nodes = nodes;
    }

    /// Sets whether the names are complete. False: they may not be true any more, and then nothing
    /// is published.
    pub(crate) fn set_whole(&self, whole: bool) {
        self.inner().whole = whole;
    }

    /// Applies the changes that concern this node's pods, and the addresses that had changed owners
    /// before.
    pub(crate) fn take(&self, changes: &[Change], moved: &[Moved]) {
        let mut inner = self.inner();
        let Some(node) = inner.node.clone() else {
            return;
        };
        let mut line = Line::of(&node);
        for change in changes.iter().filter(|change| change.origin == Origin::Pod) {
            let address = change.range.addr();
            if change.range != IpNet::from(address) {
                continue;
            }
            match &change.name {
                Some(name) if name.node.as_ref() == Some(&node) => {
                    let before = inner.names.insert(address, Arc::clone(name));
                    if before.as_ref() != Some(name) {
                        line.say(address, Some(name));
                    }
                }
                _ => {
                    if inner.names.remove(&address).is_some() {
                        line.say(address, None);
                    }
                }
            }
        }
        let said = |address| {
            let mut named = line.changed.iter().map(|named| &named.address);
            named.any(|said| said == address) || line.gone.contains(address)
        };
        let moved = moved.iter().filter(|moved| said(&moved.address));
        line.moved = moved.copied().collect();
        if inner.whole && (!line.changed.is_empty() || !line.gone.is_empty()) {
            self.send(&line);
        }
    }

    /// Tells the listeners that the names hold. Call it every [`crate::mesh::HEARTBEAT`].
    pub(crate) fn alive(&self) {
        let inner = self.inner();
        if let (true, Some(node)) = (inner.whole, &inner.node) {
            self.send(&Line::of(node));
        }
    }

    /// Number of agents that listen.
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.lines.receiver_count()
    }

    /// Checks whether a client may ask.
    pub fn admits(&self, client: IpAddr) -> Result<(), Refusal> {
        let client = client.to_canonical();
        let known = client.is_loopback() || self.inner().nodes.contains(&client);
        known.then_some(()).ok_or(Refusal::Stranger)
    }

    /// The lines for a listener, without end.
    pub fn listen(self: &Arc<Self>) -> Result<impl Stream<Item = Bytes> + use<>, Refusal> {
        let first = self.first()?;
        let state = (Arc::clone(self), first);
        Ok(stream::unfold(
            state,
            |(publisher, (said, mut lines))| async move {
                if let Some(said) = said {
                    return Some((said, (publisher, (None, lines))));
                }
                match lines.recv().await {
                    Ok(line) => Some((line, (publisher, (None, lines)))),
                    Err(RecvError::Closed) => None,
                    // The listener missed some lines, so it gets all names again.
                    Err(RecvError::Lagged(_)) => {
                        let (said, lines) = publisher.first().ok()?;
                        Some((said?, (publisher, (None, lines))))
                    }
                }
            },
        ))
    }

    /// The first line with all names, and the receiver of the lines that follow.
    fn first(&self) -> Result<(Option<Bytes>, Receiver<Bytes>), Refusal> {
        // Nothing is sent while this lock is held, so no line is missed in between.
        let inner = self.inner();
        let node = inner.node.as_ref().ok_or(Refusal::Closed)?;
        if !inner.whole {
            return Err(Refusal::NotYet);
        }
        if self.listeners() >= LISTENERS {
            return Err(Refusal::Full);
        }
        let named = inner.names.iter().map(|(address, name)| Named {
            address: *address,
            name: Arc::clone(name),
        });
        let line = Line {
            all: Some(named.collect()),
            ..Line::of(node)
        };
        Ok((Some(line.text().into()), self.lines.subscribe()))
    }

    fn send(&self, line: &Line) {
        // The send fails if nobody listens.
        let _ = self.lines.send(line.text().into());
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// Adds the change of an address to the next line. The last change of an address holds.
    fn say(&mut self, address: IpAddr, name: Option<&Arc<Name>>) {
        self.changed.retain(|named| named.address != address);
        self.gone.retain(|gone| *gone != address);
        match name {
            Some(name) => self.changed.push(Named {
                address,
                name: Arc::clone(name),
            }),
            None => self.gone.push(address),
        }
    }
}
