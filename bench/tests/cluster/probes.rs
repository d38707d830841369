//! Probes between the nodes' agents, as the chart sets them up: they find each other, with the rights
//! and ports that the chart gives, and measure what ping measures.

use lpm_testbed::{
    kubernetes::{Cluster, cluster::Node},
    testbed::Impairment,
};
use serde_json::Value;

use crate::{DELAY, PATIENCE, eventually, metrics::get, within};

/// Values of the chart: each agent answers probes, and probes the other nodes' agents.
pub(crate) const VALUES: &str = "reflector.enabled=true,config.probes.nodes.enabled=true,\
                                 config.probes.interval=1s";

/// Round trips before a mean is compared.
const ENOUGH: u64 = 100;

/// Most that two means may differ by: ping's has both hosts' time, and is of other packets.
const NEAR: f64 = 1e6;

/// Each agent probes the other node, and nobody else.
pub(crate) fn go_both_ways(cluster: &Cluster) {
    for (node, other) in [(0, 1), (1, 0)] {
        let [node, other] = [node, other].map(|number| &cluster.nodes[number]);
        let mut found = None;
        eventually(&format!("{} probes {}", node.name, other.name), || {
            found = probed(node, &other.name);
            found.is_some()
        });
        let (count, mean) = found.expect("it was there");
        let ping = ping(node, address(other));
        println!(
            "probes: {} to {}: {count} round trips, mean {mean} ns; ping {ping} ns",
            node.name, other.name
        );
        assert!(
            mean > 2.0 * DELAY.as_secs_f64() * 1e9,
            "shorter than the wire"
        );
        assert!((mean - ping).abs() < NEAR, "{mean} ns, by ping {ping} ns");
        let page = get(node, "/metrics").expect("metrics");
        let series = format!(
            "lpm_probe_rtt_seconds_count{{source_node=\"{}\",target_node=\"{}\",",
            node.name, other.name
        );
        assert!(page.contains(&series), "{page}");
    }
}

/// Round trips to a node, and their mean in nanoseconds. None: not enough yet.
fn probed(node: &Node, other: &str) -> Option<(u64, f64)> {
    let answer: Value = serde_json::from_str(&get(node, "/api/v1/probes")?).expect("JSON");
    let items = answer["items"].as_array().expect("probes");
    let targets: Vec<_> = items.iter().map(|item| &item["target"]).collect();
    if targets.is_empty() {
        return None;
    }
    assert_eq!(targets, [other], "one target: {answer}");
    let count = items[0]["rtt_ns"]["count"].as_u64()?;
    let mean = items[0]["rtt_ns"]["mean"].as_f64()?;
    (count >= ENOUGH).then_some((count, mean))
}

/// The mean of ping's round trips, in nanoseconds.
fn ping(node: &Node, to: &str) -> f64 {
    let words = ["-c", "50", "-i", "0.02", "-q", to];
    let text = node.netns.output("ping", &words).expect("ping");
    let figures = text.rsplit(" = ").next().expect("a summary");
    let mean = figures.split('/').nth(1).expect("min/avg/max/mdev");
    mean.parse::<f64>().expect("milliseconds") * 1e6
}

fn address(node: &Node) -> &'static str {
    if node.name == "node-a" {
        "198.18.0.1"
    } else {
        "198.18.0.2"
    }
}

/// A filter on the other node drops the probes alone, while pods' flows between the nodes live: the
/// link is `blocked`, and `ok` again without the filter.
pub(crate) fn are_told_from_loss(cluster: &Cluster) {
    let (node, other) = (&cluster.nodes[0], &cluster.nodes[1]);
    let rules = "table inet lpm-test {\nchain in { type filter hook input priority -500;\n\
                 udp dport 8620 drop; }\n}\n";
    // The rules were tried without a delay, and that became the link's baseline.
    cluster.wire.set_both(&Impairment::default());
    is_named(node, &other.name, "ok");
    other.netns.output("nft", &[rules]).expect("rules");
    is_named(node, &other.name, "blocked");
    let remove = ["delete", "table", "inet", "lpm-test"];
    other.netns.output("nft", &remove).expect("no rules");
    is_named(node, &other.name, "ok");
}

/// Waits until the link to a node has this verdict.
fn is_named(node: &Node, other: &str, verdict: &str) {
    let mut last = String::new();
    let labels = format!("target_node=\"{other}\",verdict=");
    within(PATIENCE, &format!("{} names {verdict}", node.name), || {
        let page = get(node, "/metrics").unwrap_or_default();
        let line = page
            .lines()
            .find(|line| line.starts_with("lpm_link_verdict{") && line.contains(labels.as_str()));
        if let Some(line) = line.filter(|line| *line != last) {
            println!("probes: {line}");
            line.clone_into(&mut last);
        }
        last.contains(&format!("verdict=\"{verdict}\""))
    });
}
