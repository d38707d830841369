//! A thousand pods.

use std::{fs, thread, time::Instant};

use lpm_testbed::{
    kubernetes::ApiServer,
    testbed::{Pair, PairConfig},
};

use crate::support::lpm::{Agent, eventually, kernel_is_usable};

/// How many, on as many nodes.
const PODS: u16 = 1000;
const NODES: u16 = 20;

/// What their names and lists may take at most, KiB: names are 1 KiB each, and a page of the list,
/// 500 pods, is held while it is read.
const AT_MOST: u64 = 16 << 10;

fn address(number: u16) -> String {
    format!("198.19.{}.{}", number / 250, number % 250 + 1)
}

/// Makes them, several at a time: each takes the server some milliseconds.
fn create(api: &ApiServer) {
    let hands = 4;
    thread::scope(|scope| {
        for hand in 0..hands {
            scope.spawn(move || {
                for number in (hand..PODS).step_by(usize::from(hands)) {
                    let (name, node) = (format!("web-{number}"), format!("n{}", number % NODES));
                    api.create_pod("default", &name, &node, &[&address(number)])
                        .expect("a pod");
                }
            });
        }
    });
}

fn anonymous_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.parse().ok()).expect("RssAnon")
}

/// An agent that asks Kubernetes so.
fn start(api: &ApiServer, pair: &Pair, kubernetes: &str) -> Agent {
    let file = api.directory().join("lpm.yaml");
    let config = format!("flows: 1024\nrows: 16\nidentity: {{kubernetes: {{{kubernetes}}}}}\n");
    fs::write(&file, config).expect("a configuration");
    let file = file.to_str().expect("a path");
    Agent::start(&pair.node, &["-c", file, "-i", Pair::POD_INTERFACE])
}

#[test]
fn a_thousand_pods_are_named() {
    if !kernel_is_usable() {
        return;
    }
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    create(&api);
    let pair = Pair::new(&PairConfig::default()).expect("a testbed");
    let agent = start(&api, &pair, "enabled: false");
    let without = anonymous_kib(agent.lpm.child.id());
    agent.stop();
    let begun = Instant::now();
    let kubeconfig = format!("kubeconfig: {}", api.kubeconfig().display());
    let agent = start(&api, &pair, &kubeconfig);
    eventually("all pods are known", || {
        agent.value("lpm_identity_objects{kind=\"pods\"}") == Some(f64::from(PODS))
    });
    let named = begun.elapsed();
    // Known before the first interface was watched, so they are in the kernel's map too.
    assert!(!agent.lpm.said().contains("has not sent all names"));
    let with = anonymous_kib(agent.lpm.child.id());
    println!(
        "{PODS} pods: named {named:.1?} after the start, RssAnon {with} KiB, {without} without"
    );
    assert!(
        with.saturating_sub(without) < AT_MOST,
        "{with} KiB, {without} without"
    );
    api.delete("/api/v1/namespaces/default/pods/web-7")
        .expect("delete");
    eventually("one less", || {
        agent.value("lpm_identity_objects{kind=\"pods\"}") == Some(f64::from(PODS - 1))
    });
    agent.stop();
}
