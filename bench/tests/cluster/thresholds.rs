//! From where on something is slow: what the chart ships, unless this machine is so busy that it is
//! slow by itself.
//!
//! The shipped thresholds are for a cluster that is not short of CPU. Where pods wait for it, so do
//! their acknowledgements, and segments are sent again for nothing. So what is so in health is
//! measured first; only a threshold that this comes near is eased, and it is said which.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use lpm_testbed::kubernetes::Cluster;
use serde_json::Value;

use crate::{chart, eventually, prometheus::Prometheus};

/// How long it is looked at: twice a rule's window.
const LOOK: Duration = Duration::from_secs(30);

/// A threshold that health comes nearer than this is eased to as many times what health is.
const NEAR: f64 = 2.0;
const EASED: f64 = 3.0;

/// Threshold, what is held against it, and how far it may be eased: below what is injected.
const ALL: [(&str, &str, f64); 4] = [
    ("network", "lpm:network_seconds:least", 0.03),
    ("server", "lpm:server_seconds:mean", 0.025),
    ("pod", "lpm:pod_seconds:mean", 1.0),
    ("loss", "lpm:retransmissions:ratio", 0.15),
];

/// Eases what has to be for these namespaces, which are well.
pub(crate) fn fit_the_machine(cluster: &Cluster, prometheus: &Prometheus, namespaces: &[&str]) {
    let shipped = shipped();
    let of_pods = format!("{{namespace=~\"{}\"}}", namespaces.join("|"));
    let worst = |name: &str| prometheus.ask(&format!("max({name}{of_pods})"));
    let pairs = format!("count(lpm:network_seconds:least{of_pods})");
    eventually("both pairs of namespaces measured", || {
        prometheus.ask(&pairs).is_some_and(|count| count >= 4.0)
    });
    let mut found = [0.0_f64; ALL.len()];
    let end = Instant::now() + LOOK;
    while Instant::now() < end {
        for ((_, name, _), most) in ALL.iter().zip(&mut found) {
            *most = worst(name).map_or(*most, |now| most.max(now));
        }
        thread::sleep(Duration::from_secs(1));
    }
    let mut eased = Vec::new();
    for ((threshold, _, most), health) in ALL.into_iter().zip(found) {
        let ships = shipped[threshold].as_f64().expect("a number");
        let as_it_ships = health * NEAR < ships;
        println!(
            "thresholds: {threshold} is {ships}, in health at most {health:.6}: {}",
            if as_it_ships { "as it ships" } else { "EASED" }
        );
        if !as_it_ships {
            let value = (health * EASED).min(most);
            println!("thresholds: {threshold} is {value:.6} here");
            eased.push(format!("rules.thresholds.{threshold}={value:.6}"));
        }
    }
    if !eased.is_empty() {
        chart::upgrade(cluster, &eased.join(","));
        prometheus.reload();
    }
}

/// What the chart ships.
fn shipped() -> Value {
    let values = fs::read_to_string(format!("{}/values.yaml", chart::CHART)).expect("values.yaml");
    let values: Value = serde_saphyr::from_str(&values).expect("YAML");
    values["rules"]["thresholds"].clone()
}
