//! What pods' annotations claim, and what comes of it.

use std::{fmt::Write as _, sync::Arc};

use serde_json::{Value, json};

use super::{Cluster, pod, read, with};
use crate::identity::{
    Name,
    claims::Refused,
    kubernetes::{StateEvent, objects::Pod, outside::MOST},
    merge::{Change, Merge, Origin},
    permits::{Network, Permits},
};
use crate::kube::Event;

const STATUS: &str = "k8s.v1.cni.cncf.io/network-status";
const ASKED: &str = "l2sm/networks";

/// Permits networks, each by a name and a range.
fn permits(networks: &[(Option<&str>, Option<&str>)]) -> Permits {
    let network = |(name, cidr): &(Option<&str>, Option<&str>)| Network {
        name: name.map(str::to_owned),
        cidr: cidr.map(|cidr| cidr.parse().expect("a range")),
    };
    Permits::new(&networks.iter().map(network).collect::<Vec<_>>())
}

impl Cluster {
    fn permitting(permits: Permits) -> Self {
        let mut cluster = Self::new();
        cluster.state = std::mem::take(&mut cluster.state).permitting(permits.clone());
        cluster.merge = Merge::permitting(permits);
        cluster
    }

    /// Names a range by the configuration.
    fn named(&mut self, origin: Origin, range: &str, name: Option<&str>) {
        let name = name.map(|name| {
            Arc::new(Name {
                namespace: Some(name.into()),
                ..Name::default()
            })
        });
        let range = range.parse().expect("a range");
        self.apply(vec![Change {
            origin,
            range,
            name,
        }]);
    }

    fn refused(&self, reason: Refused) -> u32 {
        let refused = self.state.pods().claims().refused;
        let mut all = refused.all();
        all.find(|(one, _)| *one == reason).expect("each reason").1
    }
}

/// A pod with addresses in a network, as Multus reports them.
fn attached(name: &str, network: &str, addresses: &[&str]) -> Value {
    let status = json!([{"name": network, "ips": addresses}]).to_string();
    with(
        pod(name, "evil", &["198.18.1.66"]),
        "/metadata/annotations",
        json!({STATUS: status}),
    )
}

/// A pod that only asks for an address.
fn asking(name: &str, address: &str) -> Value {
    let asked = json!([{"name": "x", "ips": [address]}]).to_string();
    with(
        pod(name, "evil", &["198.18.1.66"]),
        "/metadata/annotations",
        json!({ASKED: asked}),
    )
}

#[test]
fn without_a_permission_no_annotation_counts() {
    let mut cluster = Cluster::new();
    cluster.pod(attached("mallory", "x", &["198.19.5.1"]));
    cluster.pod(asking("other", "198.19.5.2"));
    for address in ["198.19.5.1", "198.19.5.2"] {
        assert_eq!(cluster.who(address), "nobody");
    }
    assert_eq!(cluster.refused(Refused::NotPermitted), 1);
    assert_eq!(cluster.refused(Refused::NotAttached), 1);
    let pods = cluster.state.pods().refused();
    let pods: Vec<_> = pods.filter_map(|(name, _)| name.pod.as_deref()).collect();
    assert_eq!(pods.len(), 2, "{pods:?}");
    cluster.no_pod(attached("mallory", "x", &["198.19.5.1"]));
    assert_eq!(cluster.refused(Refused::NotPermitted), 0);
}

#[test]
fn addresses_in_other_networks_bear_the_network() {
    let mut cluster = Cluster::permitting(permits(&[(Some("lab/*"), Some("198.19.0.0/16"))]));
    let meshed = |name, network: &str| {
        let own = attached(name, network, &["198.19.5.1/24"]);
        with(own, "/status/podIPs", json!([{"ip": "198.18.1.1"}]))
    };
    cluster.pod(meshed("one", "lab/blue"));
    assert_eq!(cluster.who("198.19.5.1"), "pod evil one - - n1 lab/blue");
    assert_eq!(cluster.who("198.18.1.1"), "pod evil one - - n1 -");
    // Another network may use the same address. Then its owner cannot be told.
    cluster.pod(meshed("two", "lab/green"));
    assert_eq!(cluster.who("198.19.5.1"), "pod unknown - - - - -");
    assert_eq!(cluster.state.pods().claims().contested, 1);
    cluster.no_pod(meshed("two", "lab/green"));
    assert_eq!(cluster.who("198.19.5.1"), "pod evil one - - n1 lab/blue");
    cluster.pod(meshed("one", "other/blue"));
    assert_eq!(
        cluster.who("198.19.5.1"),
        "nobody",
        "that name is not permitted"
    );
}

#[test]
fn a_claim_changes_nothing_that_the_operator_named() {
    let mut cluster = Cluster::permitting(permits(&[(None, Some("198.18.0.0/15"))]));
    cluster.named(Origin::File, "198.19.1.1/32", Some("legacy-database"));
    cluster.named(Origin::File, "198.19.2.0/24", Some("legacy-range"));
    cluster.named(Origin::External, "198.19.3.0/24", Some("partner"));
    cluster.named(Origin::Within, "198.19.4.0/24", Some("unknown"));
    cluster.named(Origin::External, "0.0.0.0/0", Some("internet"));
    let mine = "198.19.9.1";
    let all = ["198.19.1.1", "198.19.2.7", "198.19.3.7", "198.19.4.7", mine];
    cluster.pod(attached("mallory", "x", &all));
    for (address, namespace) in all.into_iter().zip([
        "legacy-database",
        "legacy-range",
        "partner",
        "unknown",
        "evil",
    ]) {
        let name = cluster.at(address).expect(address);
        assert_eq!(name.namespace.as_deref(), Some(namespace), "{address}");
    }
    assert_eq!(cluster.merge.outranked(), 4);
    // What the operator takes back does not stay.
    cluster.named(Origin::File, "198.19.2.0/24", None);
    assert!(cluster.who("198.19.2.7").contains("evil mallory"));
    cluster.named(Origin::File, "198.19.8.0/23", Some("later"));
    assert_eq!(cluster.who(mine), "pod later - - - - -");
    assert_eq!(cluster.merge.outranked(), 4);
    cluster.no_pod(attached("mallory", "x", &all));
    assert_eq!(cluster.merge.outranked(), 0);
}

#[test]
fn where_only_a_name_is_permitted_every_range_goes_before() {
    let mut cluster = Cluster::permitting(permits(&[(Some("x"), None)]));
    cluster.pod(attached("one", "x", &["203.0.113.7"]));
    assert!(cluster.who("203.0.113.7").contains("evil one"));
    cluster.named(Origin::External, "0.0.0.0/0", Some("internet"));
    assert!(cluster.who("203.0.113.7").contains("internet"));
}

#[test]
fn a_claim_takes_no_address_of_the_cluster() {
    let mut cluster = Cluster::permitting(permits(&[(None, Some("198.18.0.0/15"))]));
    let victim = pod("web-0", "shop", &["198.18.1.5"]);
    cluster.list_pods(vec![victim.clone()]);
    let forged = || attached("mallory", "x", &["198.18.1.5", "198.18.7.9", "198.18.0.1"]);
    let event = StateEvent::Pod(Event::Apply(read(forged())));
    assert_eq!(cluster.state.moved(&event), [], "nothing changes hands");
    cluster.pod(forged());
    assert_eq!(cluster.who("198.18.1.5"), "pod shop web-0 - - n1 -");
    cluster.no_pod(victim);
    assert_eq!(cluster.who("198.18.1.5"), "pod unknown - - - - -");
    let node = super::node("n1", "198.18.0.1", "198.18.7.0/24");
    cluster.take(StateEvent::Node(Event::Apply(read(node))));
    assert_eq!(cluster.who("198.18.7.9"), "pod unknown - - - - -");
    assert_eq!(cluster.who("198.18.0.1"), "node host - - - n1 -");
}

#[test]
fn nobody_takes_the_address_of_a_pod_that_is_there() {
    let mut cluster = Cluster::permitting(permits(&[(None, Some("198.19.0.0/16"))]));
    let own = "198.19.5.1";
    cluster.pod(attached("web-0", "l2sm-system/overlay-veth1", &[own]));
    let web = "pod evil web-0 - - n1 l2sm-system/overlay-veth1";
    assert_eq!(cluster.who(own), web);
    cluster.pod(asking("asks", own));
    cluster.pod(attached("forges", "another", &[own]));
    assert_eq!(cluster.who(own), web);
    // The pod ends, and the next one has its address while its object is still there.
    let mut going = attached("web-0", "l2sm-system/overlay-veth1", &[own]);
    cluster.no_pod(attached("forges", "another", &[own]));
    cluster.pod(attached("web-1", "l2sm-system/overlay-veth2", &[own]));
    assert_eq!(cluster.who(own), web);
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    cluster.pod(going.clone());
    assert!(cluster.who(own).contains("web-1"), "{}", cluster.who(own));
    cluster.no_pod(going);
    assert!(cluster.who(own).contains("web-1"));
}

#[test]
fn a_pod_without_a_node_has_nothing() {
    let mut cluster = Cluster::permitting(permits(&[(None, Some("198.19.0.0/16"))]));
    for node in [Value::Null, json!("")] {
        let pending = with(attached("p", "x", &["198.19.5.1"]), "/spec/nodeName", node);
        cluster.pod(with(pending, "/status", json!({"phase": "Pending"})));
        assert_eq!(cluster.who("198.19.5.1"), "nobody");
        assert_eq!(cluster.refused(Refused::NoNode), 1);
    }
}

/// An annotation with this many addresses of the range 10.0.0.0/8, from a number on.
fn addresses(from: u32, count: u32) -> String {
    let mut text = String::from(r#"[{"name":"x","ips":["#);
    for number in from..from + count {
        let comma = if number == from { "" } else { "," };
        let [_, a, b, c] = number.to_be_bytes();
        // Writing to a string does not fail.
        let _ = write!(text, "{comma}\"10.{a}.{b}.{c}\"");
    }
    text + "]}]"
}

#[test]
fn many_addresses_crowd_nobody_out() {
    let mut cluster = Cluster::permitting(permits(&[(None, Some("10.0.0.0/8"))]));
    for number in 0..21 {
        let text = addresses(number * 13_000, 13_000);
        let annotations = json!({STATUS: text, ASKED: text});
        let name = format!("p{number}");
        let mallory = pod(&name, "evil", &["198.18.1.66"]);
        cluster.pod(with(mallory, "/metadata/annotations", annotations));
    }
    assert_eq!(cluster.state.pods().claims().counted, 21 * 16);
    assert_eq!(cluster.refused(Refused::TooMany), 21 * (13_000 - 16));
    // As many pods as it takes to reach the bound of all.
    for number in 100..100 + u32::try_from(MOST).expect("fits") / 16 {
        let text = addresses(1_000_000 + number * 16, 16);
        let name = format!("p{number}");
        let mallory = pod(&name, "evil", &["198.18.1.66"]);
        cluster.pod(with(
            mallory,
            "/metadata/annotations",
            json!({STATUS: text}),
        ));
    }
    assert_eq!(cluster.state.pods().claims().counted, MOST);
    assert_eq!(cluster.names.len(), MOST + 1, "and the address of one pod");
}

#[test]
fn the_text_of_an_annotation_is_not_kept() {
    let text = addresses(0, 18_000);
    assert!(text.len() > 200_000, "{}", text.len());
    let filler = "x".repeat(262_094 - text.len());
    let large = with(
        pod("large", "evil", &["198.18.1.66"]),
        "/metadata/annotations",
        json!({STATUS: text, "filler": filler}),
    );
    let large: Pod = read(large);
    assert_eq!(large.metadata.annotations, None);
    assert_eq!(large.claimed.addresses.len(), 16);
    let names = large.claimed.addresses.iter();
    assert!(names.map(|claim| claim.name.len()).sum::<usize>() <= 16 * 253);
}
