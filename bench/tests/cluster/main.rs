//! The agent in a real Kubernetes of two nodes: installed by helm, asked by Prometheus, removed.
//!
//! `cargo xtask test --only cluster` makes the image first and runs this.
// Not among the other tests, which must not share the machine with a cluster. (Cargo's
// own `required-features` would refuse `--test '*'`.)
#![cfg(feature = "cluster")]

mod alert_rules;
mod chart;
mod cleanup;
mod collector;
mod metrics;
mod names;
mod overlays;
mod ports;
mod presets;
mod probes;
mod prometheus;
mod prometheus_accuracy;
mod reference_capture;
mod restart;
mod scope;
mod thresholds;
mod tools;
mod traffic;
mod truth;

use std::{
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use lpm_testbed::{
    kubernetes::{Cluster, ClusterConfig, Network},
    testbed::Impairment,
};

use cleanup::{Machine, Traces};
use prometheus::{Histograms, Prometheus};

/// One-way delay between the nodes.
const DELAY: Duration = Duration::from_millis(5);

/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(3);

/// One cluster at a time: each has a good part of the machine.
static ONE: Mutex<()> = Mutex::new(());

/// What a cluster is, and how the chart is installed in it.
#[derive(Clone, Copy)]
struct Shape {
    network: Network,
    preset: &'static str,
    scope: &'static str,
}

#[test]
fn flannel() {
    scenario(Shape {
        network: Network::Flannel,
        preset: "flannel",
        scope: "node",
    });
}

#[test]
fn azure_cni() {
    scenario(Shape {
        network: Network::Azure,
        preset: "aks-azure-cni",
        scope: "cluster",
    });
}

fn scenario(shape: Shape) {
    let network = shape.network;
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(image) = chart::image() else { return };
    // What an earlier one left, as it may have been killed.
    Cluster::remove_stale().expect("nothing of old ones");
    let machine = Machine::now();
    let Some(cluster) = Cluster::up_or_skip(&ClusterConfig {
        images: vec![image],
        wire: Impairment::delay(DELAY),
        ..ClusterConfig::new(network)
    }) else {
        return;
    };
    chart::install(&cluster, shape.preset, shape.scope);
    chart::has_least_capabilities(&cluster);
    names::are_right(&cluster, network, shape.scope);
    probes::go_both_ways(&cluster);
    restart::loses_nothing(&cluster, shape.scope);
    // While its pods are there.
    presets::select(&cluster, network);
    ports::are_the_kernels(&cluster, network);
    let discovered = Prometheus::start(&cluster, Histograms::Discovered);
    alert_rules::is_answered(&cluster, &discovered);
    cluster.wire.set_both(&Impairment::delay(DELAY));
    traffic::start(&cluster);
    let classic = Prometheus::start(&cluster, Histograms::Classic);
    let native = Prometheus::start(&cluster, Histograms::Native);
    prometheus_accuracy::with_the_truth(&cluster, [&classic, &native, &discovered]);
    on_one_node(&discovered);
    probes::are_told_from_loss(&cluster);
    if network == Network::Azure {
        scope::falls_back(&cluster);
    }
    let traces = Traces::of(&cluster);
    chart::uninstall_leaves_nothing(&cluster);
    traces.programs_go();
    drop([classic, native, discovered]);
    overlays::leave_nothing(&cluster, network);
    drop(cluster);
    traces.are_gone();
    assert_eq!(Machine::now(), machine, "the machine is as it was");
}

/// What stays on one node is far from what crosses the wire.
fn on_one_node(prometheus: &Prometheus) {
    for peer in ["pod", "service"] {
        let mean = prometheus.mean(&traffic::beside(peer));
        eventually(&format!("a {peer} on the same node is near"), || {
            prometheus
                .ask(&mean)
                .is_some_and(|mean| mean < DELAY.as_secs_f64() / 2.0)
        });
    }
}

/// Waits until `done`.
pub(crate) fn eventually(what: &str, done: impl FnMut() -> bool) {
    within(PATIENCE, what, done);
}

/// Waits until `done`, no longer than that.
pub(crate) fn within(patience: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {patience:?}");
        thread::sleep(Duration::from_millis(200));
    }
}
