//! Tests of the peers: which agents are asked, which names are believed, and which are sent.

use std::{
    net::IpAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, StreamExt as _};

use super::*;
use crate::{
    identity::{
        Name,
        merge::{Change, Moved, Origin},
    },
    mesh::{Agent, LEASE, PeerConnection},
};

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn named(at: &str, namespace: &str) -> Named {
    let name = Name {
        namespace: Some(namespace.into()),
        node: Some("n2".into()),
        ..Name::default()
    };
    Named {
        address: address(at),
        name: Arc::new(name),
    }
}

/// Nodes `n1` to `n9` with ranges 198.18.1.0/24 and so on.
fn home(address: IpAddr) -> Option<Agent> {
    let IpAddr::V4(v4) = address else { return None };
    let number = v4.octets()[2];
    (v4.octets()[1] == 18 && (1..10).contains(&number)).then(|| Agent {
        node: format!("n{number}").into(),
        address: IpAddr::from([198, 19, 0, number]),
    })
}

/// Changes as readable texts.
fn words(changes: &[Change]) -> Vec<String> {
    let word = |change: &Change| {
        assert_eq!(change.origin, Origin::Peer);
        let name = change.name.as_ref().and_then(|name| name.namespace.clone());
        format!("{} {}", change.range.addr(), name.as_deref().unwrap_or("-"))
    };
    changes.iter().map(word).collect()
}

type Begun = Arc<std::sync::Mutex<Vec<String>>>;

type Begin = Box<dyn FnMut(std::net::SocketAddr, &Arc<str>, u64) -> Option<PeerConnection>>;

fn peers() -> (Peers<Begin>, Begun) {
    let notes = Begun::default();
    let hears = Arc::clone(&notes);
    let begin: Begin = Box::new(move |at, node, number| {
        let note = format!("{number} {node} {at}");
        hears.lock().expect("not poisoned").push(note);
        None
    });
    (Peers::new("n1".into(), 9477, begin), notes)
}

fn all(names: Vec<Named>) -> Line {
    Line {
        all: Some(names),
        ..Line::of(&"n2".into())
    }
}

#[test]
fn each_node_is_asked_once_while_something_talks_with_it() {
    let (mut peers, begun) = peers();
    let (now, mut out) = (Instant::now(), Vec::new());
    let talks = [
        "198.18.1.1",
        "198.18.2.1",
        "198.18.2.2",
        "198.18.3.1",
        "198.19.9.9",
    ];
    for _ in 0..2 {
        peers.want(talks.map(address), home, now, &mut out);
    }
    let asked = begun.lock().expect("not poisoned").clone();
    assert_eq!(asked, ["1 n2 198.19.0.2:9477", "2 n3 198.19.0.3:9477"]);
    peers.take(
        1,
        all(vec![named("198.18.2.1", "shop")]),
        home,
        now,
        &mut out,
    );
    assert_eq!(words(&out), ["198.18.2.1 shop"]);
    out.clear();
    // Nothing talks with the node any more, though its agent still says that its names hold.
    let later = now + Duration::from_mins(6);
    peers.take(1, Line::of(&"n2".into()), home, later, &mut out);
    peers.tick(later, &mut out);
    assert_eq!(words(&out), ["198.18.2.1 -"]);
    assert_eq!(peers.report(), Report::default());
}

#[test]
fn what_is_not_heard_for_too_long_is_unknown() {
    let (mut peers, begun) = peers();
    let (now, mut out) = (Instant::now(), Vec::new());
    peers.want([address("198.18.2.1")], home, now, &mut out);
    let line = || {
        all(vec![
            named("198.18.2.1", "shop"),
            named("198.18.2.2", "shop"),
        ])
    };
    peers.take(1, line(), home, now, &mut out);
    out.clear();
    peers.take(1, Line::of(&"n2".into()), home, now + LEASE / 2, &mut out);
    peers.tick(now + LEASE, &mut out);
    assert_eq!(words(&out), [""; 0], "it was heard meanwhile");
    peers.tick(now + LEASE / 2 + LEASE, &mut out);
    assert_eq!(words(&out), ["198.18.2.1 -", "198.18.2.2 -"]);
    assert_eq!(begun.lock().expect("not poisoned").len(), 2, "asked again");
    out.clear();
    // Messages of the old connection are ignored. Changes mean nothing without all names.
    peers.take(1, line(), home, now, &mut out);
    let changed = Line {
        changed: vec![named("198.18.2.1", "shop")],
        ..Line::of(&"n2".into())
    };
    peers.take(2, changed, home, now, &mut out);
    assert_eq!(words(&out), [""; 0]);
    peers.take(2, line(), home, now, &mut out);
    assert_eq!(out.len(), 2);
}

#[test]
fn an_agents_word_is_for_its_own_node() {
    let (mut peers, _) = peers();
    let (now, mut out) = (Instant::now(), Vec::new());
    peers.want([address("198.18.2.1")], home, now, &mut out);
    let moved = ["198.18.2.1", "198.18.3.1", "198.19.0.1"].map(|at| Moved {
        address: address(at),
        since: None,
    });
    let line = Line {
        moved: moved.to_vec(),
        ..Line::of(&"n2".into())
    };
    assert_eq!(peers.moved(1, &line, home), moved[..1]);
    assert_eq!(peers.moved(7, &line, home), []);
    let mut node = named("198.18.2.3", "evil");
    Arc::make_mut(&mut node.name).kind = crate::identity::names_file::Kind::Node;
    let lies = vec![
        named("198.18.2.1", "shop"),
        named("198.18.3.1", "evil"),
        named("198.18.1.1", "evil"),
        named("198.19.0.1", "evil"),
        node,
    ];
    peers.take(1, all(lies), home, now, &mut out);
    assert_eq!(words(&out), ["198.18.2.1 shop"]);
    out.clear();
    // A list replaces the earlier names. Then the range goes to another node.
    peers.take(
        1,
        all(vec![named("198.18.2.2", "media")]),
        home,
        now,
        &mut out,
    );
    assert_eq!(words(&out), ["198.18.2.1 -", "198.18.2.2 media"]);
    out.clear();
    let moved = |_| {
        Some(Agent {
            node: "n7".into(),
            address: address("198.19.0.7"),
        })
    };
    peers.nodes_changed(moved, &mut out);
    assert_eq!(words(&out), ["198.18.2.2 -"]);
}

fn change(origin: Origin, at: &str, name: Option<Arc<Name>>) -> Change {
    Change {
        origin,
        range: address(at).into(),
        name,
    }
}

#[test]
fn the_board_tells_of_its_own_nodes_pods() {
    let publisher = Arc::<NamePublisher>::default();
    assert_eq!(publisher.listen().err(), Some(Refusal::Closed));
    publisher.open("n2".into());
    let name = |at| named(at, "shop").name;
    let mut other = name("198.18.3.1");
    Arc::make_mut(&mut other).node = Some("n3".into());
    publisher.take(
        &[
            change(Origin::Pod, "198.18.2.1", Some(name("198.18.2.1"))),
            change(Origin::Pod, "198.18.3.1", Some(other.clone())),
            change(Origin::Peer, "198.18.2.9", Some(name("198.18.2.9"))),
        ],
        &[],
    );
    assert_eq!(publisher.listen().err(), Some(Refusal::NotYet));
    publisher.set_whole(true);
    let mut lines = pin!(publisher.listen().expect("lines"));
    let mut next = || {
        let line = lines.next().now_or_never()?.expect("no end");
        Some(serde_json::from_slice::<Line>(&line).expect("a line"))
    };
    assert_eq!(next(), Some(all(vec![named("198.18.2.1", "shop")])));
    assert_eq!(next(), None);
    // The pod goes, and its address goes to another node's pod, whose owner is not ours to tell.
    let moved = [1, 9].map(|last| Moved {
        address: [198, 18, 2, last].into(),
        since: None,
    });
    publisher.take(&[change(Origin::Pod, "198.18.2.1", None)], &moved);
    publisher.take(&[change(Origin::Pod, "198.18.2.1", Some(other))], &[]);
    publisher.alive();
    let gone = Line {
        gone: vec![address("198.18.2.1")],
        moved: moved[..1].to_vec(),
        ..Line::of(&"n2".into())
    };
    assert_eq!(next(), Some(gone));
    assert_eq!(next(), Some(Line::of(&"n2".into())));
    // A slow listener gets all names again. Once it is no node any more, the agent sends nothing.
    for _ in 0..100 {
        publisher.alive();
    }
    assert_eq!(next(), Some(all(Vec::new())));
    publisher.set_whole(false);
    publisher.alive();
    assert_eq!(next(), None);
    assert_eq!(publisher.listeners(), 1);
}

#[test]
fn nodes_may_ask_and_nobody_else() {
    let publisher = NamePublisher::default();
    publisher.admit([address("198.19.0.2")].into());
    for (client, may) in [
        ("198.19.0.2", true),
        ("::ffff:198.19.0.2", true),
        ("127.0.0.1", true),
        ("198.19.0.3", false),
        ("::ffff:198.19.0.3", false),
    ] {
        assert_eq!(publisher.admits(address(client)).is_ok(), may, "{client}");
    }
}
