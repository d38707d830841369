//! What the nodes' interfaces carry, and the links between them: as `ip` tells, and as the cluster is.

use std::collections::BTreeMap;

use lpm_testbed::kubernetes::{Cluster, Network, cluster::Node};
use serde_json::{Value, json};

use crate::metrics::get;

/// Interface, direction, what is counted.
type Counter = (String, &'static str, &'static str);

/// Each node's card and tunnel, on a cluster with traffic.
pub(crate) fn are_the_kernels(cluster: &Cluster, network: Network) {
    let watched: &[(&str, &str)] = match network {
        Network::Flannel => &[("eth0", "nic"), ("flannel.1", "overlay")],
        Network::Azure => &[("eth0", "nic")],
    };
    for (node, other) in [(0, 1), (1, 0)] {
        let [node, other] = [node, other].map(|number| &cluster.nodes[number]);
        // Counters only grow: what is told between two looks is between what both say.
        let before = by_ip(node);
        let metrics = get(node, "/metrics").expect("metrics");
        let after = by_ip(node);
        let mut told: Vec<_> = lines(&metrics, "lpm_port_bytes_total").collect();
        told.retain(|(labels, _)| labels.contains("direction=\"receive\""));
        assert_eq!(told.len(), watched.len(), "{}: {told:?}", node.name);
        for (interface, vantage) in watched {
            let traffic = &before[&((*interface).to_owned(), "receive", "packets")];
            assert!(*traffic > 100, "{}: {interface}: {traffic}", node.name);
            for (counter, least) in before.iter().filter(|(one, _)| one.0 == *interface) {
                let (_, way, what) = counter;
                let labels =
                    format!("interface=\"{interface}\",vantage=\"{vantage}\",direction=\"{way}\"");
                let value = lines(&metrics, &format!("lpm_port_{what}_total"))
                    .find_map(|(found, value)| (found == labels).then_some(value));
                let value = value.unwrap_or_else(|| panic!("{what} of {labels}\n{metrics}"));
                assert!(
                    (*least..=after[counter]).contains(&value),
                    "{}: {counter:?}: {value}, by ip {least} to {}",
                    node.name,
                    after[counter]
                );
            }
        }
        links_are_right(node, other, network);
        println!("ports: {}: {watched:?} as ip has them", node.name);
    }
}

/// A tunnel makes one link, to the other node; without a tunnel there is none.
fn links_are_right(node: &Node, other: &Node, network: Network) {
    let answer = get(node, "/api/v1/links").expect("links");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    let ports = answer["items"].as_array().expect("ports");
    let links = ports
        .iter()
        .filter_map(|port| port["port"]["links"].as_array());
    let links: Vec<_> = links.flatten().cloned().collect();
    let address = if other.name == "node-a" {
        "198.18.0.1"
    } else {
        "198.18.0.2"
    };
    let expected = json!({
        "id": format!("{}/flannel.1-{}", node.name, other.name),
        "source_node": node.name,
        "target_node": other.name,
        "target_address": address,
        "type": "vxlan",
        // No capacity: the nodes' cards here are veths, whose speed is made up.
    });
    let expected = match network {
        Network::Flannel => vec![expected],
        Network::Azure => Vec::new(),
    };
    assert_eq!(links, expected, "{}: {ports:#?}", node.name);
}

/// Labels and values of a metric.
fn lines<'a>(metrics: &'a str, name: &str) -> impl Iterator<Item = (&'a str, u64)> {
    let start = format!("{name}{{");
    metrics.lines().filter_map(move |line| {
        let (labels, value) = line.strip_prefix(&start)?.rsplit_once("} ")?;
        Some((labels, value.parse().expect("a number")))
    })
}

/// What the kernel counts, as `ip` tells it.
fn by_ip(node: &Node) -> BTreeMap<Counter, u64> {
    let text = node.netns.output("ip", &["-s", "-j", "link"]).expect("ip");
    let links: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let mut found = BTreeMap::new();
    for link in links {
        let name = link["ifname"].as_str().expect("a name");
        for (way, key) in [("receive", "rx"), ("transmit", "tx")] {
            let names = [
                ("bytes", "bytes"),
                ("packets", "packets"),
                ("drops", "dropped"),
                ("errors", "errors"),
            ];
            for (what, its) in names {
                let count = link["stats64"][key][its].as_u64().expect("a count");
                found.insert((name.to_owned(), way, what), count);
            }
        }
    }
    found
}
