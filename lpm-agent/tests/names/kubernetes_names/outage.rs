//! The API server is gone for a minute, and comes back with its history compacted.

use std::time::{Duration, Instant};

use lpm_testbed::{
    kubernetes::ApiServer,
    testbed::{Pair, PairConfig},
    traffic::{PORT, Server},
};

use super::scene::{agent, another_address, pod, populate, samples, talk, talk_to, through_a_gate};
use crate::support::lpm::{Agent, eventually, kernel_is_usable};

/// How long there is no API server.
const GONE: Duration = Duration::from_mins(1);

/// An address of the cluster's that nobody has until the API server is gone.
const NEW: &str = "198.18.2.77";

/// Talks until the time is up: each time the known pod's name is there, and the new address is
/// nobody's. Returns how often.
fn measure_on(pair: &Pair, agent: &Agent, new: std::net::IpAddr) -> u64 {
    let begun = Instant::now();
    let mut rounds = 0;
    while begun.elapsed() < GONE {
        let known = || samples(agent, "media", "pod");
        let unknown = || samples(agent, "unknown", "pod");
        let before = (known(), unknown());
        talk(&pair.client);
        talk_to(&pair.client, new);
        assert!(known() > before.0, "a known name stays");
        assert!(unknown() > before.1, "what is unknown is counted as such");
        rounds += 1;
    }
    rounds
}

#[test]
fn measuring_goes_on_without_the_api_server() {
    if !kernel_is_usable() {
        return;
    }
    let Some(mut api) = ApiServer::start_or_skip() else {
        return;
    };
    populate(&api);
    let (gate, kubeconfig) = through_a_gate(&api);
    let pair = Pair::new(&PairConfig::default()).expect("a testbed");
    let _server = Server::start(&pair.server, PORT).expect("a server");
    let agent = agent(&api, &pair, &kubeconfig, "");
    let new = another_address(&pair, NEW);
    eventually("the names are in the kernel", || {
        talk(&pair.client);
        samples(&agent, "media", "pod") > 0
    });

    gate.close();
    api.stop();
    let rounds = measure_on(&pair, &agent, new);
    println!("{rounds} rounds without an API server");
    let errors = "lpm_identity_errors_total{kind=\"pods\",reason=\"unreachable\"}";
    assert!(agent.value(errors) > Some(0.0), "{}", agent.metrics());

    // What happens while the agent is away is forgotten by etcd, too.
    api.start_again().expect("start");
    pod(&api, "games", "new-0", NEW);
    api.compact().expect("compact");
    api.start_again().expect("start");
    gate.open();
    eventually("the watch recovers", || {
        talk_to(&pair.client, new);
        samples(&agent, "games", "pod") > 0
    });
    let unknown = samples(&agent, "unknown", "pod");
    talk(&pair.client);
    talk_to(&pair.client, new);
    assert_eq!(samples(&agent, "unknown", "pod"), unknown, "all is known");
    assert_eq!(samples(&agent, "internet", "external"), 0);
    agent.stop();
}
