//! A rollout: each agent is away for a while, the own one and that of the node with which pods talk.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use lpm_testbed::{
    kubernetes::ApiServer,
    testbed::{Bpffs, Pair, PairConfig},
    traffic::{Background, Limit, PORT, RequestConfig, Server, requests},
};

use super::{samples, start_with, two_pods};
use crate::{
    peer,
    support::lpm::{Agent, eventually, kernel_is_usable},
};

/// How long a node is without an agent when a DaemonSet replaces it.
const AWAY: Duration = Duration::from_secs(8);

/// How long after an agent is back its absence is over.
const AFTER: Duration = Duration::from_secs(12);

/// Samples without the other end's name so far, and with it.
fn seen(agent: &Agent) -> [f64; 2] {
    ["unknown", "media"].map(|peer| samples(agent, peer))
}

fn pass(time: Duration) {
    let since = Instant::now();
    eventually("the time is over", || since.elapsed() >= time);
}

#[test]
fn while_agents_are_replaced_few_samples_are_without_names() {
    if !kernel_is_usable() {
        return;
    }
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    let (pair, bpffs) = (
        Pair::new(&PairConfig::default()).expect("a testbed"),
        Bpffs::mount("mode=0700").expect("a BPF file system"),
    );
    two_pods(&api);
    let more = format!(
        "pins: {{enabled: true, path: {}}}\n",
        bpffs.path().join("lpm").display()
    );
    let _server = Server::start(&pair.server, PORT).expect("a server");
    let port = peer::free_port();
    let agent = start_with(&api, &pair, port, &more);
    let mut other = peer::Agent::start(&api.kubeconfig(), 2, port);
    let config = RequestConfig {
        limit: Limit::default(),
        period: Duration::from_millis(5),
        ..RequestConfig::new(SocketAddr::from((Pair::SERVER[0], PORT)))
    };
    let talk = Background::start(&pair.client, move |control| requests(&config, control));
    let talk = talk.expect("start requests");
    eventually("the other agent has told the name", || {
        samples(&agent, "media") > 0.0
    });
    // It settles: what was unknown at the beginning is not counted.
    pass(Duration::from_secs(3));
    let begun = seen(&agent);
    other.stop_serving();
    pass(AWAY);
    other.serve();
    pass(AFTER);
    let without_other = seen(&agent);
    agent.stop();
    pass(AWAY);
    let agent = start_with(&api, &pair, port, &more);
    pass(AFTER);
    let ended = seen(&agent);
    talk.stop().expect("requests");
    agent.stop();
    let share = |from: [f64; 2], to: [f64; 2]| {
        let [unknown, known] = [to[0] - from[0], to[1] - from[1]];
        println!(
            "rollout: {unknown} of {} samples without a name",
            unknown + known
        );
        assert!(unknown + known > 1000.0, "traffic was measured");
        unknown / (unknown + known)
    };
    let shares = [share(begun, without_other), share(without_other, ended)];
    println!("rollout: {shares:.4?}");
    assert!(shares.iter().all(|share| *share < 0.01), "{shares:?}");
}
