//! Networks that a pod is in beside the cluster's own: L2S-M's, and all that Multus attaches.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::objects::{L2SM_NETWORKS, NETWORK_STATUS};

/// An entry of either annotation.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Network {
    name: String,
    ips: Vec<String>,
    /// The cluster's own network.
    default: bool,
}

/// Addresses of a pod in such networks, and the networks' names. What Multus says that the pod has
/// goes before what L2S-M was asked for. An annotation that cannot be read names nothing.
pub(super) fn read(metadata: &ObjectMeta) -> Vec<(IpAddr, String)> {
    let mut found: Vec<(IpAddr, String)> = Vec::new();
    for annotation in [NETWORK_STATUS, L2SM_NETWORKS] {
        let annotations = metadata.annotations.as_ref();
        let Some(text) = annotations.and_then(|all| all.get(annotation)) else {
            continue;
        };
        // L2S-M also takes names alone, without addresses.
        let networks: Vec<Network> = serde_json::from_str(text).unwrap_or_default();
        for network in networks.into_iter().filter(|network| !network.default) {
            for address in network.ips.iter().filter_map(|text| address(text)) {
                if found.iter().all(|(known, _)| *known != address) {
                    found.push((address, network.name.clone()));
                }
            }
        }
    }
    found
}

/// An address, with or without the length of its network.
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
        let wanted = r#"[{"name": "red", "ips": ["198.19.2.3/24", "198.19.1.2/24"]}]"#;
        let found = pod(&[(L2SM_NETWORKS, wanted), (NETWORK_STATUS, status)]);
        assert_eq!(
            found[0],
            blue("198.19.1.2"),
            "what is goes before what was wished"
        );
        assert_eq!(found[2], ("198.19.2.3".to_owned(), "red".to_owned()));
        assert_eq!(found.len(), 3);
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
