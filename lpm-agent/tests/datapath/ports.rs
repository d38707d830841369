//! What interfaces carry, and the links that tunnels make, against `ip`'s own reading.

use std::{collections::BTreeMap, net::IpAddr};

use lpm_testbed::testbed::{Flavour, Netns, Overlay, OverlayConfig};
use lpm_testbed::traffic::{PORT, Server};
use serde_json::Value;

use crate::support::paths::{agent, eventually, file, kernel_is_usable, talk};

const NAMES: &str = "- {address: 198.18.0.2, node: far}\n";

/// Bytes and packets by interface and direction, as `ip` tells them.
fn by_ip(node: &Netns) -> BTreeMap<(String, &'static str), (u64, u64)> {
    let text = node.output("ip", &["-s", "-j", "link"]).expect("ip");
    let links: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let mut found = BTreeMap::new();
    for link in links {
        let name = link["ifname"].as_str().expect("a name").to_owned();
        for (way, key) in [("receive", "rx"), ("transmit", "tx")] {
            let counts = &link["stats64"][key];
            let count = |what: &str| counts[what].as_u64().expect("a count");
            found.insert((name.clone(), way), (count("bytes"), count("packets")));
        }
    }
    found
}

#[test]
fn ports_and_links_are_those_of_the_kernel() {
    if !kernel_is_usable() {
        return;
    }
    let overlay = Overlay::new(&OverlayConfig::new(Flavour::Flannel)).expect("the overlay");
    let node = &overlay.nodes[0];
    let (a0, b0) = (overlay.pod("a0"), overlay.pod("b0"));
    let _server = Server::start(&b0.netns, PORT).expect("a server");
    let monitor = agent(node, file("").path(), file(NAMES).path());
    talk(&a0.netns, IpAddr::V4(b0.v4), 100);
    let tunnel = Flavour::Flannel.vxlan();
    // Until nothing moves any more: the reading between two equal ones is the same.
    eventually("the kernel's figures", || {
        let before = by_ip(node);
        let metrics = monitor.metrics().expect("metrics");
        if by_ip(node) != before {
            return false;
        }
        for (interface, vantage) in [("eth0", "nic"), (tunnel, "overlay")] {
            for way in ["receive", "transmit"] {
                let (bytes, packets) = before[&(interface.to_owned(), way)];
                assert!(packets >= 100, "{interface} {way}: {packets}");
                for (what, count) in [("bytes", bytes), ("packets", packets)] {
                    let series = format!(
                        "lpm_port_{what}_total{{interface=\"{interface}\",vantage=\"{vantage}\",direction=\"{way}\"}} {count}"
                    );
                    assert!(
                        metrics.lines().any(|line| line == series),
                        "{series}\n{metrics}"
                    );
                }
            }
        }
        assert!(
            !metrics.contains("lpm_port_bytes_total{interface=\"vetha0\""),
            "a pod's"
        );
        true
    });
    let links = monitor.list("links").expect("links");
    let port = |name: &str| {
        let mut found = links.iter().filter(|link| link["interface"] == name);
        &found.next().expect(name)["port"]
    };
    assert_eq!(port(tunnel)["kind"], "vxlan");
    let [link] = &port(tunnel)["links"].as_array().expect("links")[..] else {
        panic!("{links:?}");
    };
    assert_eq!(
        (&link["target_node"], &link["type"]),
        (&"far".into(), &"vxlan".into())
    );
    assert_eq!(link["target_address"], "198.18.0.2");
    let id = link["id"].as_str().expect("an id");
    assert!(id.ends_with(&format!("/{tunnel}-far")), "{id}");
    assert!(port("eth0")["links"].is_null());
    assert!(
        port("vetha0")["received"]["packets"].as_u64() > Some(100),
        "by the API, of pods too"
    );
}
