//! Pods in great number, and pods with the largest annotations, under the chart's memory limit.
//!
//! `cargo xtask test --only hostile` runs the same with ten thousand pods, on the agent that is
//! built for release.

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    process::Command,
    thread,
};

use lpm_testbed::{
    kubernetes::ApiServer,
    testbed::{Pair, PairConfig},
    traffic::{PORT, Server},
};
use serde_json::{Value, json};

use super::scene::{another_address, populate, samples, talk_to};
use crate::support::{
    limited::{Group, anonymous, limit},
    lpm::{Agent, Lpm, eventually, kernel_is_usable},
};

/// What the chart gives by its own values: `resources.agentMemoryMi`, the maps and 16 MiB more.
const CHART: u64 = 241 << 20;

/// Pods of the attacker.
const ANNOTATED: u32 = 40;

/// The most that Kubernetes takes in all annotations of a pod, bytes.
const LARGEST: usize = 262_144;

/// Threads that make pods.
const MAKERS: u32 = 4;

/// Addresses of others in a range that annotations may claim: the first is named by the names file,
/// the second by an external range.
const OF_FILE: &str = "198.19.5.50";
const OF_RANGE: &str = "198.19.64.7";

const STATUS: &str = "k8s.v1.cni.cncf.io/network-status";
const ASKED: &str = "l2sm/networks";

/// How many other pods there are, and which program is tried.
struct Scale {
    pods: u32,
    program: PathBuf,
}

impl Scale {
    /// The full scale if `LPM_HOSTILE` names a program that is built for release, else one for every
    /// day.
    fn asked_for() -> Self {
        match std::env::var_os("LPM_HOSTILE") {
            Some(program) => Self {
                pods: 10_000,
                program: program.into(),
            },
            None => Self {
                pods: 500,
                program: env!("CARGO_BIN_EXE_lpm").into(),
            },
        }
    }
}

/// Makes running pods of other nodes, each with an address.
fn crowd(api: &ApiServer, pods: u32) {
    thread::scope(|scope| {
        for first in 0..MAKERS {
            scope.spawn(move || {
                for number in (first..pods).step_by(MAKERS as usize) {
                    let [_, _, high, low] = number.to_be_bytes();
                    let address = format!("198.18.{}.{low}", 100 + high);
                    let (name, node) = (format!("crowd-{number}"), format!("n{}", 2 + number % 50));
                    let made = api.create_pod("games", &name, &node, &[&address]);
                    made.expect("a pod");
                }
            });
        }
    });
}

/// A list of one network as long as a pod may have it, which claims others' addresses first.
fn claims(number: u32, round: u32) -> String {
    let mut text = format!("[{{\"name\":\"blue-{round}\",\"ips\":[\"{OF_FILE}\",\"{OF_RANGE}\"");
    for address in [Pair::SERVER[0], Pair::CLIENT[0]] {
        // Writing to a string does not fail.
        let _ = write!(text, ",\"{address}\"");
    }
    let mut more = (number << 16) | 0x0a00_0000;
    while text.len() < LARGEST - 100 {
        more += 1;
        let _ = write!(text, ",\"{}\"", Ipv4Addr::from_bits(more));
    }
    text + "]}]"
}

/// What a pod of the attacker says, in one annotation or the other.
fn annotations(number: u32, round: u32) -> Value {
    let key = if number.is_multiple_of(2) {
        STATUS
    } else {
        ASKED
    };
    json!({key: claims(number, round)})
}

fn attack(api: &ApiServer) {
    for number in 0..ANNOTATED {
        let pod = json!({
            "metadata": {"name": format!("m-{number}"), "annotations": annotations(number, 0)},
            "spec": {"nodeName": "n1", "containers": [{"name": "main", "image": "none"}]},
        });
        let pods = "/api/v1/namespaces/evil/pods";
        api.create(pods, &pod).expect("a pod");
        let address = format!("198.18.90.{number}");
        let status = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]});
        let pod = format!("{pods}/m-{number}");
        api.patch_status(&pod, &status).expect("status");
    }
}

/// Changes each of the attacker's annotations.
fn churn(api: &ApiServer, round: u32) {
    for number in 0..ANNOTATED {
        let change = json!({"metadata": {"annotations": annotations(number, round)}});
        let pod = format!("/api/v1/namespaces/evil/pods/m-{number}");
        api.patch(&pod, &change).expect("annotations");
    }
}

/// Starts an agent of a control group, which trusts annotations in two ranges.
fn start(api: &ApiServer, pair: &Pair, scale: &Scale, group: &Group) -> Agent {
    let directory = api.directory();
    let names = format!("- {{address: {OF_FILE}, namespace: legacy}}\n");
    fs::write(directory.join("names.yaml"), names).expect("names");
    let config = format!(
        "interfaces: [{{name: {}, vantage: pod}}, {{vantage: none}}]\nnode_name: n1\n\
         names: names.yaml\nsocket: {{enabled: false}}\nidentity:\n  kubernetes: {{kubeconfig: {}, \
         networks: [{{cidr: 198.19.0.0/16}}, {{cidr: 10.0.0.0/8}}]}}\n  external: [{{cidr: 198.19.64.0/18, name: azure}}]\n  \
         cluster_ranges: [198.18.0.0/16]\n",
        Pair::POD_INTERFACE,
        api.kubeconfig().display()
    );
    let file = directory.join("limited.yaml");
    fs::write(&file, config).expect("a configuration");
    let mut command = Command::new(&scale.program);
    command.arg("--netns").arg(pair.node.path());
    command
        .args(["run", "--listen", "127.0.0.1:0", "-c"])
        .arg(file);
    limit(&mut command, Some(group));
    let lpm = Lpm::spawn(&pair.node, &mut command);
    lpm.wait_for("/metrics\n");
    let said = lpm.said();
    let url = said.split_once("/metrics\n").expect("its URL").0;
    let url = url
        .rsplit_once("metrics at ")
        .expect("its URL")
        .1
        .to_owned();
    Agent::at(lpm, url)
}

/// Whoever had a name before has it now: each conversation is counted under it.
fn all_bear_their_names(agent: &Agent, pair: &Pair) {
    let others: [(IpAddr, _, _); 3] = [
        (Pair::SERVER[0], "media", "pod"),
        (OF_FILE.parse().expect("an address"), "legacy", "pod"),
        (OF_RANGE.parse().expect("an address"), "azure", "external"),
    ];
    for (address, namespace, kind) in others {
        let before = samples(agent, namespace, kind);
        eventually(namespace, || {
            talk_to(&pair.client, address);
            samples(agent, namespace, kind) > before
        });
    }
    let page = agent.metrics();
    let evil = page
        .lines()
        .find(|line| line.contains("namespace=\"evil\""));
    assert_eq!(evil, None);
}

#[test]
fn large_annotations_and_many_pods_fit_the_charts_memory() {
    if !kernel_is_usable() {
        return;
    }
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    let scale = Scale::asked_for();
    populate(&api);
    let evil = json!({"metadata": {"name": "evil"}});
    api.create("/api/v1/namespaces", &evil).expect("evil");
    crowd(&api, scale.pods);
    let pair = Pair::new(&PairConfig::default()).expect("a testbed");
    let _server = Server::start(&pair.server, PORT).expect("a server");
    for address in [OF_FILE, OF_RANGE] {
        another_address(&pair, address);
    }
    let group = Group::new(CHART);
    let mut agent = start(&api, &pair, &scale, &group);
    let known = |agent: &Agent, pods: u32| {
        eventually("all pods are known", || {
            agent.value("lpm_identity_objects{kind=\"pods\"}") == Some(f64::from(pods))
        });
    };
    known(&agent, scale.pods + 2);
    all_bear_their_names(&agent, &pair);
    let at_rest = anonymous(&agent.lpm);
    attack(&api);
    let mut most = at_rest;
    for round in 1..4 {
        known(&agent, scale.pods + 2 + ANNOTATED);
        all_bear_their_names(&agent, &pair);
        most = most.max(anonymous(&agent.lpm));
        // The pods are there when the agent starts, as after each of its deaths before.
        if round == 2 {
            agent.stop();
            agent = start(&api, &pair, &scale, &group);
        }
        churn(&api, round);
    }
    println!(
        "{} pods and {ANNOTATED} with the largest annotations: {} KiB of its own at rest, {} KiB at most; \
         the group {:?} of {} KiB",
        scale.pods,
        at_rest >> 10,
        most >> 10,
        group.peak().map(|bytes| bytes >> 10),
        CHART >> 10
    );
    let series = "lpm_identity_claims_refused{reason=\"too_many\"}";
    assert!(agent.value(series) > Some(0.0), "the attack was seen");
    assert_eq!(group.killed(), 0, "nothing was killed for its memory");
    agent.stop();
}
