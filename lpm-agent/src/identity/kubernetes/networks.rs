//! Further networks of a pod, beside the cluster's own: L2S-M's, and all others that Multus
//! attaches.
//!
//! L2S-M attaches pods through Multus, to ports of its switches. For the n-th network that
//! `l2sm/networks` asks for, it takes any free port of the pod's node. It writes these ports, in
//! the same order, into Multus' own annotation (`internal/controller/pod_webhook.go`; if that
//! annotation exists already, it does nothing). So Multus knows the network as
//! `l2sm-system/overlay-veth3` on one node and as another port elsewhere. Multus' status has the
//! addresses, and L2S-M's annotation has the name.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::objects::{L2SM_NETWORKS, NETWORK_STATUS, NETWORKS};

/// Most networks of a pod that are read.
const MOST: usize = 256;

/// A network in one of the annotations.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Network {
    name: String,
    namespace: Option<String>,
    ips: Vec<String>,
    /// True: the cluster's own network.
    default: bool,
}

impl Network {
    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.ips.iter().filter_map(|text| address(text))
    }

    /// True if both have an address in common.
    fn meets(&self, other: &Self) -> bool {
        self.addresses()
            .any(|address| other.addresses().any(|one| one == address))
    }

    /// True unless both name addresses and have none in common: they may be the same network.
    fn may_be(&self, other: &Self) -> bool {
        let names = |network: &Self| network.addresses().next().is_some();
        !names(self) || !names(other) || self.meets(other)
    }

    /// True if Multus' status calls this requested network so.
    fn is_called(&self, status: &str) -> bool {
        let (namespace, name) = status
            .rsplit_once('/')
            .map_or((None, status), |(namespace, name)| (Some(namespace), name));
        let asked = self.namespace.as_deref();
        name == self.name && (namespace.is_none() || asked.is_none() || namespace == asked)
    }
}

/// Addresses of a pod in further networks, and the networks' names. Where Multus reports what it
/// did, addresses come from there only. An annotation that cannot be read names nothing.
pub(super) fn read(metadata: &ObjectMeta) -> Vec<(IpAddr, String)> {
    let annotation = |key: &str| metadata.annotations.as_ref()?.get(key);
    let wanted = annotation(L2SM_NETWORKS).map_or_else(Vec::new, |text| list(text));
    let attached = annotation(NETWORK_STATUS).map(|text| {
        // Multus never writes names alone here.
        let networks: Vec<Network> = serde_json::from_str(text).unwrap_or_default();
        let others = networks.into_iter().filter(|network| !network.default);
        others.take(MOST).collect::<Vec<_>>()
    });
    // L2S-M writes JSON there.
    let asked: Option<Vec<Network>> =
        annotation(NETWORKS).map(|text| serde_json::from_str(text).unwrap_or_default());
    let mut found: Vec<(IpAddr, String)> = Vec::new();
    let networks = attached.as_ref().unwrap_or(&wanted);
    for (place, network) in networks.iter().enumerate() {
        let name = match &attached {
            Some(attached) => {
                let at = (place, attached.len());
                named(network, at, asked.as_deref(), &wanted).unwrap_or(&network.name)
            }
            None => &network.name,
        };
        for address in network.addresses() {
            if found.iter().all(|(known, _)| *known != address) {
                found.push((address, name.clone()));
            }
        }
    }
    found
}

/// L2S-M's name of a network that Multus has attached as the `place`-th of `all`. None: it is not a
/// network of L2S-M.
fn named<'a>(
    network: &Network,
    (place, all): (usize, usize),
    asked: Option<&[Network]>,
    wanted: &'a [Network],
) -> Option<&'a String> {
    // The match is by an address that only one network has: another may use the same.
    let mut meeting = wanted.iter().filter(|wanted| wanted.meets(network));
    if let (Some(only), None) = (meeting.next(), meeting.next()) {
        return Some(&only.name);
    }
    // L2S-M asks Multus for as many networks as it was asked for, in the same order.
    let place = match asked {
        Some(asked) => asked
            .iter()
            .position(|asked| asked.is_called(&network.name)),
        None => Some(place),
    }?;
    let as_many = asked.map_or(all, <[Network]>::len) == wanted.len();
    let named = wanted.get(place).filter(|_| as_many)?;
    named.may_be(network).then_some(&named.name)
}

/// Parses networks in the forms that L2S-M accepts: JSON, or names alone with commas between.
fn list(text: &str) -> Vec<Network> {
    if let Ok(networks) = serde_json::from_str::<Vec<Network>>(text) {
        return networks.into_iter().take(MOST).collect();
    }
    // Broken JSON is not taken for names.
    if text.contains(['{', '[', '"']) {
        return Vec::new();
    }
    let names = text.split(',').map(str::trim);
    let names = names.filter(|name| !name.is_empty()).take(MOST);
    let network = |name: &str| Network {
        name: name.to_owned(),
        ..Network::default()
    };
    names.map(network).collect()
}

/// Parses an address, with or without a prefix length.
fn address(text: &str) -> Option<IpAddr> {
    let with_length = text.parse::<IpNet>().map(|range| range.addr());
    let address = with_length.or_else(|_| text.parse()).ok()?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn pod(annotations: &[(&str, &str)]) -> Vec<(String, String)> {
        let own = |text: &str| text.to_owned();
        let annotations: BTreeMap<String, String> = annotations
            .iter()
            .map(|(key, value)| (own(key), own(value)))
            .collect();
        let found = read(&ObjectMeta {
            annotations: Some(annotations),
            ..ObjectMeta::default()
        });
        let text = found.into_iter();
        text.map(|(address, network)| (address.to_string(), network))
            .collect()
    }

    #[test]
    fn networks_beyond_the_clusters_own() {
        let status = r#"[
            {"name": "cbr0", "interface": "eth0", "ips": ["198.18.1.2"], "default": true},
            {"name": "default/blue", "interface": "net1", "ips": ["198.19.1.2", "fd00::2"], "mac": "aa"},
            {"name": "default/green", "interface": "net2"}
        ]"#;
        let blue = |address: &str| (address.to_owned(), "default/blue".to_owned());
        assert_eq!(
            pod(&[(NETWORK_STATUS, status)]),
            [blue("198.19.1.2"), blue("fd00::2")]
        );
        // Multus has not attached it, so nobody has the address.
        let wanted = r#"[{"name": "red", "ips": ["198.19.2.3/24"]}]"#;
        let found = pod(&[(L2SM_NETWORKS, wanted), (NETWORK_STATUS, status)]);
        assert_eq!(found, [blue("198.19.1.2"), blue("fd00::2")]);
        let found = pod(&[(L2SM_NETWORKS, wanted)]);
        assert_eq!(found, [("198.19.2.3".to_owned(), "red".to_owned())]);
    }

    /// Annotations as L2S-M's webhook and Multus write them. The ports are those that were free on
    /// the pod's node.
    fn attached(ports: [u8; 2], host: u8) -> (String, String) {
        let [a, b] = ports.map(|port| format!("overlay-veth{port}"));
        let (ip, link) = (format!("198.19.1.{host}"), format!("198.19.2.{host}"));
        let asked = format!(
            r#"[{{"name":"{a}","namespace":"l2sm-system","ips":["{ip}/24"]}},
            {{"name":"{b}","namespace":"l2sm-system","ips":["{link}/24"]}}]"#
        );
        let status = format!(
            r#"[{{"name":"cbr0","interface":"eth0","ips":["198.18.1.2"],"default":true}},
            {{"name":"l2sm-system/{a}","interface":"net1","ips":["{ip}"]}},
            {{"name":"l2sm-system/{b}","interface":"net2","ips":["{link}"]}}]"#
        );
        (asked, status)
    }

    #[test]
    fn both_ends_of_a_network_of_l2sm_have_its_name() {
        let with_addresses = r#"[{"name":"blue","ips":["198.19.1.5/24"]},{"name":"green"}]"#;
        for (wanted, ports, host) in [
            ("blue, green", [3, 1], 4),
            (r#"[{"name": "blue"}, {"name": "green"}]"#, [1, 2], 7),
            (with_addresses, [9, 10], 5),
        ] {
            let (asked, status) = attached(ports, host);
            let expected = [
                (format!("198.19.1.{host}"), "blue".to_owned()),
                (format!("198.19.2.{host}"), "green".to_owned()),
            ];
            let status = (NETWORK_STATUS, status.as_str());
            let found = pod(&[(L2SM_NETWORKS, wanted), status, (NETWORKS, &asked)]);
            assert_eq!(found, expected, "{wanted}");
            assert_eq!(pod(&[(L2SM_NETWORKS, wanted), status]), expected);
        }
    }

    #[test]
    fn what_multus_attached_by_itself_keeps_its_name() {
        let status = r#"[{"name":"lab/macvlan","interface":"net1","ips":["198.19.7.2"]}]"#;
        let own = ("198.19.7.2".to_owned(), "lab/macvlan".to_owned());
        // L2S-M leaves a pod alone that asks Multus itself.
        for wanted in [r#"[{"name":"video","ips":["198.19.1.2/24"]}]"#, "a", "a, b"] {
            let found = pod(&[
                (L2SM_NETWORKS, wanted),
                (NETWORKS, "macvlan"),
                (NETWORK_STATUS, status),
            ]);
            assert_eq!(found, std::slice::from_ref(&own), "{wanted}");
        }
        // Two networks have the same address, in the order in which they were asked for.
        let same =
            r#"[{"name":"a/one","ips":["198.19.1.2"]},{"name":"a/two","ips":["198.19.1.2"]}]"#;
        let wanted =
            r#"[{"name":"red","ips":["198.19.1.2/24"]},{"name":"blue","ips":["198.19.1.2/24"]}]"#;
        let found = pod(&[(L2SM_NETWORKS, wanted), (NETWORK_STATUS, same)]);
        assert_eq!(found, [("198.19.1.2".to_owned(), "red".to_owned())]);
    }

    #[test]
    fn what_cannot_be_read_names_nothing() {
        for text in [
            "",
            "blue",
            "blue, green",
            "{",
            r#"[{"name":"x","ips":["nowhere"]}]"#,
        ] {
            assert!(pod(&[(L2SM_NETWORKS, text)]).is_empty(), "{text}");
        }
    }
}
