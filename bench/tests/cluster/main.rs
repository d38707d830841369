//! The agent in a real Kubernetes of two nodes: installed by helm, asked by Prometheus, removed.
//!
//! `cargo xtask test --only cluster` makes the image first and runs this.
// Not among the other integration tests, which must not share the machine with a cluster. (Cargo's
// own `required-features` would refuse `--test '*'`.)
#![cfg(feature = "cluster")]

mod chart;
mod left;
mod metrics;
mod names;
mod prometheus;
mod question;
mod restart;
mod tools;
mod traffic;
mod truth;

use std::{
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use lpm_bench::{
    kubernetes::{Cluster, ClusterConfig, Network},
    testbed::Impairment,
};

use left::Traces;
use prometheus::{Histograms, Prometheus};

/// One-way delay between the nodes.
const DELAY: Duration = Duration::from_millis(5);

/// How often the percentiles may be looked at.
const ATTEMPTS: usize = 3;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(3);

/// One cluster at a time: each has a good part of the machine.
static ONE: Mutex<()> = Mutex::new(());

#[test]
fn flannel() {
    scenario(Network::Flannel, "flannel");
}

#[test]
fn azure_cni() {
    scenario(Network::Azure, "aks-azure-cni");
}

fn scenario(network: Network, preset: &str) {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(image) = chart::image() else { return };
    let Some(cluster) = Cluster::up_or_skip(&ClusterConfig {
        images: vec![image],
        wire: Impairment::delay(DELAY),
        ..ClusterConfig::new(network)
    }) else {
        return;
    };
    chart::install(&cluster, preset);
    chart::has_least_capabilities(&cluster);
    names::are_right(&cluster, network);
    restart::loses_nothing(&cluster);
    let discovered = Prometheus::start(&cluster, Histograms::Discovered);
    if network == Network::Azure {
        question::is_answered(&cluster, &discovered);
        cluster.wire.set_both(&Impairment::delay(DELAY));
    }
    traffic::start(&cluster);
    let classic = Prometheus::start(&cluster, Histograms::Classic);
    let native = Prometheus::start(&cluster, Histograms::Native);
    agrees(&cluster, [&classic, &native, &discovered]);
    on_one_node(&discovered);
    let traces = Traces::of(&cluster);
    chart::uninstall_leaves_nothing(&cluster);
    traces.programs_go();
    drop([classic, native, discovered]);
    drop(cluster);
    traces.are_gone();
}

/// What crosses the wire, directly and by a Service, is what the wire's log says.
fn agrees(cluster: &Cluster, prometheuses: [&Prometheus; 3]) {
    for prometheus in prometheuses {
        // A pair of namespaces has to be there before its rate can be told.
        for peer in ["pod", "service"] {
            let count = prometheus.count(&traffic::across(peer));
            eventually(&format!("samples of a {peer} in Prometheus"), || {
                prometheus.ask(&count).is_some_and(|count| count > 100.0)
            });
        }
    }
    // The wire's log leaves out what a busy node takes for itself: what is wrong is so each time.
    let held = (0..ATTEMPTS).any(|_| hold(cluster, prometheuses));
    assert!(held, "not in {ATTEMPTS} attempts");
}

/// Whether all means and percentiles of a window are the truth.
fn hold(cluster: &Cluster, prometheuses: [&Prometheus; 3]) -> bool {
    drop(cluster.wire.take_records());
    thread::sleep(prometheus::WINDOW);
    let records = cluster.wire.take_records();
    let mut held = true;
    for peer in ["pod", "service"] {
        let truth = truth::round_trips(&records, traffic::client(cluster, peer));
        let series = traffic::across(peer);
        for prometheus in prometheuses {
            held &= prometheus.holds_mean(&series, truth::mean(&truth));
            for quantile in [0.5, 0.9] {
                held &= prometheus.holds_quantile(&series, quantile, &truth);
            }
        }
    }
    held
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
