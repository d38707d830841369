//! A session that loads no program: it gives names, and answers probes.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use lpm_agent::{
    active::fate::Fate,
    config::{Allowed, Config},
    session::{Options, Session},
};
use lpm_testbed::kubernetes::ApiServer;
use serde_json::json;

use crate::support::ready::eventually;

/// The registry of a session without kernel programs follows the API server.
#[test]
fn names_of_a_cluster_without_programs() {
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    let address = "198.18.9.1";
    api.create_pod("default", "old", "n1", &[address])
        .expect("a pod");
    let mut config = Config::default();
    config.identity.kubernetes.kubeconfig = Some(api.kubeconfig());
    let options = Options {
        config,
        passive: false,
        ..Options::default()
    };
    let session = Session::start(options, drop).expect("a session of names");
    assert!(session.passive().is_none());
    let address: IpAddr = address.parse().expect("an address");
    let pod = || session.registry().lookup(address)?.pod.clone();
    eventually("the pod has its name", || pod().as_deref() == Some("old"));
    api.delete("/api/v1/namespaces/default/pods/old")
        .expect("delete");
    eventually("the pod's end is known", || pod().is_none());
}

/// The reflector answers the nodes of a cluster as they come and go, without a restart, and nobody
/// else.
#[test]
fn a_reflector_answers_the_nodes_of_the_cluster() {
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    let free = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let at = free.local_addr().expect("an address");
    drop(free);
    let mut config = Config::default();
    config.identity.kubernetes.kubeconfig = Some(api.kubeconfig());
    config.reflector.listen = vec![at];
    config.reflector.allow = vec![Allowed::Nodes];
    let options = Options {
        config,
        passive: false,
        active: true,
        ..Options::default()
    };
    let session = Session::start(options, drop).expect("a session");
    let active = session.active().expect("it answers");
    let count = |fate| active.answers().counts.of(fate);
    let client = UdpSocket::bind(("127.0.0.77", 0)).expect("a socket");
    client.set_nonblocking(true).expect("it does not block");
    let is_answered = || ask(&client, at);
    eventually("a stranger is refused", || {
        assert!(!is_answered());
        count(Fate::NotAllowed) > 0
    });
    let node = json!({"metadata": {"name": "n7"}});
    api.create("/api/v1/nodes", &node).expect("a node");
    let status = json!({"addresses": [{"type": "InternalIP", "address": "127.0.0.77"}]});
    api.patch_status("/api/v1/nodes/n7", &status)
        .expect("an address");
    eventually("a node is answered", is_answered);
    api.delete("/api/v1/nodes/n7").expect("delete");
    eventually("a former node is refused", || {
        let (refused, is_answered) = (count(Fate::NotAllowed), is_answered());
        !is_answered && count(Fate::NotAllowed) > refused
    });
}

/// Sends a probe, and takes what has been answered so far. True: something was.
fn ask(client: &UdpSocket, at: SocketAddr) -> bool {
    let mut packet = [0; 44];
    // The error estimate of a clock that nobody synchronizes (RFC 8762 section 4.2.1).
    packet[13] = 1;
    client.send_to(&packet, at).expect("sent");
    std::iter::from_fn(|| client.recv(&mut packet).ok()).count() > 0
}
