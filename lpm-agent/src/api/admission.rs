//! Decides which connections are admitted, so that nobody takes all descriptors.

use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::{Peer, limits::Shares};
use crate::{
    export::http::{HttpCounts, HttpRefusal},
    identity::peers::NamePublisher,
};

/// A kind of clients. Each kind has its own share of the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Stranger,
    Node,
    Loopback,
    Unix,
    Health,
}

/// Whom a connection counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Client {
    Address(IpAddr),
    User(u32),
    /// All of this machine, or all of the health checks.
    Anybody,
}

/// The open connections, and how many there may be.
#[derive(Debug)]
pub struct Admission {
    shares: Shares,
    /// Knows the addresses of the cluster's nodes.
    nodes: Arc<NamePublisher>,
    counts: Arc<HttpCounts>,
    open: Mutex<Open>,
}

/// Connections of each client, the oldest first.
type Group = HashMap<Client, VecDeque<Entry>>;

#[derive(Debug, Default)]
struct Open {
    groups: HashMap<Kind, Group>,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    /// Dropping it tells the connection that it must end.
    _keep: oneshot::Sender<()>,
}

/// The place of an admitted connection. Dropping it makes room for another.
#[derive(Debug)]
pub struct Place {
    admission: Arc<Admission>,
    kind: Kind,
    client: Client,
    number: u64,
    kept: oneshot::Receiver<()>,
}

impl Admission {
    /// Makes an admission without any connection. The publisher knows the nodes' addresses.
    #[must_use]
    pub fn new(shares: Shares, nodes: Arc<NamePublisher>, counts: Arc<HttpCounts>) -> Arc<Self> {
        Arc::new(Self {
            shares,
            nodes,
            counts,
            open: Mutex::default(),
        })
    }

    /// Admits a connection, or counts why not. `None`: close it.
    ///
    /// A full share makes room for a client that has fewer connections than another one: the oldest
    /// connection of the client with most is cut off. So clients that open many cannot keep others
    /// out.
    #[must_use]
    pub fn admit(self: &Arc<Self>, peer: &Peer) -> Option<Place> {
        let (kind, client) = match *peer {
            Peer::Unix { uid, .. } => (Kind::Unix, Client::User(uid)),
            Peer::Tcp(at) => {
                let address = at.ip().to_canonical();
                if address.is_loopback() {
                    (Kind::Loopback, Client::Anybody)
                } else if self.nodes.admits(address).is_ok() {
                    (Kind::Node, Client::Address(address))
                } else {
                    (Kind::Stranger, Client::Address(address))
                }
            }
        };
        self.place(kind, client)
    }

    /// Admits a connection to the listener for health checks. A check takes a moment, so a new one
    /// takes the place of the oldest where all are taken.
    #[must_use]
    pub fn admit_check(self: &Arc<Self>) -> Option<Place> {
        self.place(Kind::Health, Client::Anybody)
    }

    fn place(self: &Arc<Self>, kind: Kind, client: Client) -> Option<Place> {
        let (most, each) = self.shares.of(kind);
        let mut open = self.open();
        let group = open.groups.entry(kind).or_default();
        let own = group.get(&client).map_or(0, VecDeque::len);
        let all: usize = group.values().map(VecDeque::len).sum();
        if kind != Kind::Health && own >= each {
            self.counts.refuse(HttpRefusal::Client);
            return None;
        }
        if all >= most {
            // Of clients with as many, the one with the oldest connection.
            let rank = |entries: &VecDeque<Entry>| {
                let oldest = entries.front().map(|entry| entry.number);
                (entries.len(), Reverse(oldest))
            };
            let largest = group.iter_mut().max_by_key(|(_, entries)| rank(entries));
            match largest {
                Some((_, entries)) if gives_way(entries.len(), own, kind) => {
                    entries.pop_front();
                    self.counts.refuse(HttpRefusal::Displaced);
                }
                _ => {
                    self.counts.refuse(HttpRefusal::Share);
                    return None;
                }
            }
            group.retain(|_, entries| !entries.is_empty());
        }
        let (keep, kept) = oneshot::channel();
        open.next += 1;
        let number = open.next;
        let entries = open.groups.entry(kind).or_default();
        entries.entry(client).or_default().push_back(Entry {
            number,
            _keep: keep,
        });
        Some(Place {
            admission: Arc::clone(self),
            kind,
            client,
            number,
            kept,
        })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the client with most connections gives one to a client with `own`. It must have two more,
/// or the two would take it from each other in turn; but whoever has none gets one.
fn gives_way(most: usize, own: usize, kind: Kind) -> bool {
    own == 0 || most > own + 1 || kind == Kind::Health
}

impl Shares {
    /// Most connections of this kind, and of one of its clients.
    fn of(&self, kind: Kind) -> (usize, usize) {
        match kind {
            Kind::Stranger => (self.strangers, self.address),
            Kind::Node => (self.nodes, self.address),
            Kind::Loopback => (self.loopback, self.loopback),
            Kind::Unix => (self.unix, self.user),
            Kind::Health => (self.health, self.health),
        }
    }
}

impl Place {
    /// Waits until the connection must make room for another.
    pub async fn displaced(&mut self) {
        // Nothing is ever sent: the sender is dropped.
        let _ = (&mut self.kept).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.admission.open();
        let Some(group) = open.groups.get_mut(&self.kind) else {
            return;
        };
        if let Some(entries) = group.get_mut(&self.client) {
            entries.retain(|entry| entry.number != self.number);
            if entries.is_empty() {
                group.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::api::limits::Limits;

    fn admission() -> Arc<Admission> {
        let shares = Limits::within(1024).shares;
        Admission::new(shares, Arc::default(), Arc::default())
    }

    fn at(address: &str) -> Peer {
        Peer::Tcp(SocketAddr::new(address.parse().expect("an address"), 1))
    }

    fn refused(admission: &Admission, why: HttpRefusal) -> u64 {
        admission.counts.refused(why)
    }

    #[test]
    fn one_address_has_only_its_own_share() {
        let admission = admission();
        let all: Vec<_> = (0..100)
            .map(|_| admission.admit(&at("198.18.0.1")))
            .collect();
        assert_eq!(all.iter().flatten().count(), admission.shares.address);
        assert_eq!(refused(&admission, HttpRefusal::Client), 84);
        assert!(admission.admit(&at("::ffff:198.18.0.1")).is_none());
        assert!(admission.admit(&at("198.18.0.2")).is_some());
        drop(all);
        assert!(admission.admit(&at("198.18.0.1")).is_some());
    }

    #[test]
    fn strangers_take_neither_loopback_nor_health_checks() {
        let admission = admission();
        let mut strangers: Vec<_> = (0..1000)
            .filter_map(|n| admission.admit(&at(&format!("198.18.{}.{}", n / 250, n % 250))))
            .collect();
        // Each new one has taken the place of the oldest.
        let kept = |place: &mut Place| place.displaced().now_or_never().is_none();
        let kept: Vec<_> = strangers.iter_mut().map(kept).collect();
        assert!(kept[872..].iter().all(|kept| *kept) && !kept[..872].contains(&true));
        assert!(admission.admit(&at("127.0.0.1")).is_some());
        assert!(admission.admit_check().is_some());
        let user = Peer::Unix {
            uid: 0,
            gid: 0,
            pid: None,
        };
        assert!(admission.admit(&user).is_some());
    }

    #[test]
    fn nodes_have_a_share_of_their_own() {
        let publisher = Arc::<NamePublisher>::default();
        publisher.admit([IpAddr::from([198, 19, 0, 2])].into());
        let shares = Limits::within(1024).shares;
        let admission = Admission::new(shares, publisher, Arc::default());
        let strangers: Vec<_> = (0..128)
            .filter_map(|n| admission.admit(&at(&format!("198.18.0.{n}"))))
            .collect();
        assert_eq!(strangers.len(), 128);
        assert!(admission.admit(&at("198.19.0.2")).is_some());
        assert_eq!(refused(&admission, HttpRefusal::Displaced), 0);
    }

    #[test]
    fn the_client_with_most_gives_way() {
        let admission = admission();
        let mut greedy: Vec<_> = (0..8)
            .flat_map(|client| {
                let address = format!("198.18.0.{client}");
                let admission = Arc::clone(&admission);
                (0..16).map(move |_| admission.admit(&at(&address)).expect("a place"))
            })
            .collect();
        assert_eq!(greedy.len(), 128);
        let newcomer = admission.admit(&at("198.18.1.1"));
        assert!(newcomer.is_some());
        assert_eq!(refused(&admission, HttpRefusal::Displaced), 1);
        let told = |place: &mut Place| place.displaced().now_or_never().is_some();
        let ended: Vec<_> = greedy.iter_mut().map(told).collect();
        assert!(ended[0] && !ended[1..].contains(&true), "{ended:?}");
        assert!(admission.admit(&at("198.18.0.0")).is_none(), "it has 15");
        assert_eq!(refused(&admission, HttpRefusal::Share), 1);
    }

    #[test]
    fn a_new_health_check_takes_the_oldest_ones_place() {
        let admission = admission();
        let mut checks: Vec<_> = (0..17)
            .map(|_| admission.admit_check().expect("a place"))
            .collect();
        assert!(checks[0].displaced().now_or_never().is_some());
        assert!(checks[1].displaced().now_or_never().is_none());
    }
}
