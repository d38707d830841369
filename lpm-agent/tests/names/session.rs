//! A session that gives names and measures nothing.

use std::net::IpAddr;

use lpm_agent::{
    config::Config,
    session::{Options, Session},
};
use lpm_testbed::kubernetes::ApiServer;

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
