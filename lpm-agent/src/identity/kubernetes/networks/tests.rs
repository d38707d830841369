//! Tests of what annotations claim.

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
    let all = found.addresses.into_iter();
    all.map(|claim| (claim.address.to_string(), claim.name.to_string()))
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
    // Nobody has attached it at all.
    assert!(pod(&[(L2SM_NETWORKS, wanted)]).is_empty());
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
    let same = r#"[{"name":"a/one","ips":["198.19.1.2"]},{"name":"a/two","ips":["198.19.1.2"]}]"#;
    let wanted =
        r#"[{"name":"red","ips":["198.19.1.2/24"]},{"name":"blue","ips":["198.19.1.2/24"]}]"#;
    let found = pod(&[(L2SM_NETWORKS, wanted), (NETWORK_STATUS, same)]);
    assert_eq!(found, [("198.19.1.2".to_owned(), "red".to_owned())]);
}

fn refused(annotations: &[(&str, &str)]) -> Vec<(&'static str, u32)> {
    let own = |text: &str| text.to_owned();
    let annotations = annotations
        .iter()
        .map(|(key, value)| (own(key), own(value)));
    let found = read(&ObjectMeta {
        annotations: Some(annotations.collect()),
        ..ObjectMeta::default()
    });
    assert!(found.addresses.len() <= MOST_ADDRESSES);
    let all = found.refused.all().filter(|(_, count)| *count > 0);
    all.map(|(reason, count)| (reason.as_str(), count))
        .collect()
}

#[test]
fn what_does_not_count_is_counted() {
    let many: Vec<String> = (0..13_000)
        .map(|n| format!("\"10.7.{}.{}\"", n / 256, n % 256))
        .collect();
    let many = format!(r#"[{{"name":"x","ips":[{}]}}]"#, many.join(","));
    assert_eq!(
        refused(&[(L2SM_NETWORKS, &many)]),
        [("not_attached", 13_000)]
    );
    assert_eq!(
        refused(&[(NETWORK_STATUS, &many)]),
        [("too_many", 13_000 - 16)]
    );
    let apart: Vec<String> = (0..1000)
        .map(|n| {
            format!(
                r#"{{"name":"n{n}","ips":["10.7.{}.{}"]}}"#,
                n / 256,
                n % 256
            )
        })
        .collect();
    let apart = format!("[{}]", apart.join(","));
    assert_eq!(
        refused(&[(NETWORK_STATUS, &apart)]),
        [("too_many", 1000 - 16)]
    );
    let long = format!(r#"[{{"name":"{}","ips":["10.7.0.1"]}}]"#, "x".repeat(254));
    assert_eq!(refused(&[(NETWORK_STATUS, &long)]), [("long_name", 1)]);
    assert_eq!(refused(&[(NETWORK_STATUS, "[{")]), [("unreadable", 1)]);
    let odd = r#"[{"name":"x","ips":["nowhere","10.7.0.1"]},{"name":"y","ips":null}]"#;
    assert_eq!(refused(&[(NETWORK_STATUS, odd)]), [("unreadable", 1)]);
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
