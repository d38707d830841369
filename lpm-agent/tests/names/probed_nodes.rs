//! The agents of a cluster's nodes as targets of probes, by a real API server.

use std::{
    net::UdpSocket,
    path::Path,
    process::{Child, Stdio},
    sync::Arc,
};

use lpm_agent::{
    active::agent::{
        LeftOut,
        figures::{Outcome, Shown},
    },
    config::Config,
    session::{Options, Session},
};
use lpm_testbed::kubernetes::ApiServer;
use serde_json::json;

use crate::support::{lpm::lpm, ready::eventually};

/// `lpm reflect` at an address. It ends with this value.
struct Reflector(Child);

impl Reflector {
    fn start(last: u8, port: u16) -> Self {
        let at = format!("127.0.0.{last}:{port}");
        let mut command = lpm();
        command.args(["reflect", "--listen", &at]);
        command.stdout(Stdio::null());
        Self(command.spawn().expect("a reflector"))
    }
}

impl Drop for Reflector {
    fn drop(&mut self) {
        self.0.kill().expect("kill");
        self.0.wait().expect("wait");
    }
}

/// Makes a node with an address and a zone.
fn create(api: &ApiServer, name: &str, last: u8, zone: &str) {
    let labels = json!({"topology.kubernetes.io/zone": zone});
    let node = json!({"metadata": {"name": name, "labels": labels}});
    api.create("/api/v1/nodes", &node).expect("a node");
    let address = format!("127.0.0.{last}");
    let status = json!({"addresses": [{"type": "InternalIP", "address": address}]});
    api.patch_status(&format!("/api/v1/nodes/{name}"), &status)
        .expect("an address");
}

/// A configuration whose agent probes the nodes at a port.
fn config(api: &ApiServer, port: u16, more: &str) -> Config {
    let text = format!(
        "node_name: n1\nprobes: {{port: {port}, interval: 100ms, timeout: 200ms, \
         train: {{packets: 3}}, nodes: {{enabled: true}}{more}}}\n"
    );
    let mut config = Config::parse(&text, Path::new("lpm.yaml")).expect("a configuration");
    config.identity.kubernetes.kubeconfig = Some(api.kubeconfig());
    config
}

fn targets(session: &Session) -> Vec<Arc<Shown>> {
    session.active().expect("it probes").figures().sessions()
}

fn names(session: &Session) -> Vec<String> {
    let targets = targets(session);
    targets.iter().map(|one| one.target.to_string()).collect()
}

fn count(shown: &Shown, outcome: Outcome) -> u64 {
    let figures = shown.figures();
    figures.outcomes.get(&outcome).copied().unwrap_or_default()
}

/// Nodes come and go as targets. The others' sessions go on meanwhile, also while the API server is
/// away. The node itself is none, and a target of the list goes before a node of the same name.
#[test]
fn nodes_are_targets_as_they_come_and_go() {
    let Some(mut api) = ApiServer::start_or_skip() else {
        return;
    };
    let free = UdpSocket::bind("127.0.0.71:0").expect("a socket");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    create(&api, "n1", 71, "a");
    create(&api, "n2", 72, "a");
    let _second = Reflector::start(72, port);
    let options = Options {
        config: config(&api, port, ""),
        passive: false,
        active: true,
        ..Options::default()
    };
    let session = Session::start(options, drop).expect("a session");
    eventually("the other node is a target", || names(&session) == ["n2"]);
    let n2 = Arc::clone(&targets(&session)[0]);
    eventually("it answers", || count(&n2, Outcome::Answered) > 10);
    assert_eq!(n2.tags()["zone"], "a");
    create(&api, "n3", 73, "b");
    let third = Reflector::start(73, port);
    eventually("the new node is a target", || {
        names(&session) == ["n2", "n3"]
    });
    let n3 = Arc::clone(&targets(&session)[1]);
    eventually("it answers", || count(&n3, Outcome::Answered) > 10);
    assert_eq!(n3.tags()["zone"], "b");
    assert!(Arc::ptr_eq(&n2, &targets(&session)[0]), "its counts go on");
    let moved = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "c"}}});
    api.patch("/api/v1/nodes/n3", &moved).expect("a zone");
    eventually("the zone is another one", || n3.tags()["zone"] == "c");
    api.stop();
    let before = count(&n3, Outcome::Answered);
    eventually("n3 is probed without the API server", || {
        count(&n3, Outcome::Answered) > before + 10
    });
    api.start_again().expect("the API server");
    api.delete("/api/v1/nodes/n3").expect("delete");
    eventually("a former node is no target", || names(&session) == ["n2"]);
    drop(third);
    let before = count(&n2, Outcome::Answered);
    eventually("n2 goes on", || count(&n2, Outcome::Answered) > before + 10);
    for lost in [Outcome::Lost, Outcome::LostForward, Outcome::Suppressed] {
        assert_eq!(count(&n2, lost), 0, "{lost:?}: its session began anew");
    }
    let listed = ", targets: [{name: n2, address: 127.0.0.72, interval: 200ms}]";
    session.reload(config(&api, port, listed)).expect("reload");
    eventually("the list goes first", || {
        let figures = session.active().expect("it probes").figures();
        figures.together().left_out.get(&LeftOut::Name) == Some(&1)
    });
    assert_eq!(names(&session), ["n2"]);
    eventually("the list has no zone for it", || n2.tags().is_empty());
    assert!(Arc::ptr_eq(&n2, &targets(&session)[0]), "its counts go on");
}
