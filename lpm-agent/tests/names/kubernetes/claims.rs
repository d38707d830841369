//! Pods' annotations that claim addresses in further networks: what an attacker with the right to
//! make pods may write.

use std::net::Ipv4Addr;

use lpm_agent::identity::{
    claims::{Claims, Refused},
    kubernetes::{Outlook, check_scope},
    permits::{Network, Permits},
};
use lpm_testbed::kubernetes::ApiServer;
use serde_json::{Value, json};

use super::{PODS, namespace, rights::account, scope::node};
use crate::{
    follower::Follower,
    peer::{Agent, free_port},
    support::ready::eventually,
};

const STATUS: &str = "k8s.v1.cni.cncf.io/network-status";
const ASKED: &str = "l2sm/networks";

/// Permits one range.
fn permits(cidr: &str) -> Permits {
    Permits::new(&[Network {
        name: None,
        cidr: Some(cidr.parse().expect("a range")),
    }])
}

/// A list of one network, as both annotations have it.
fn network(name: &str, addresses: &[String]) -> String {
    json!([{"name": name, "ips": addresses}]).to_string()
}

/// Makes a pod with annotations. It runs on the node, if there is one.
fn annotated(api: &ApiServer, name: &str, node: Option<&str>, annotations: &Value) {
    let mut pod = json!({"metadata": {"name": name, "annotations": annotations},
        "spec": {"containers": [{"name": "main", "image": "none"}]}});
    if let Some(node) = node {
        pod["spec"]["nodeName"] = node.into();
    }
    api.create(PODS, &pod).expect("a pod");
}

fn refused(claims: &Claims, reason: Refused) -> u32 {
    let mut all = claims.refused.all();
    all.find(|(one, _)| *one == reason).expect("each reason").1
}

/// Waits until this many addresses are refused for a reason.
#[track_caller]
fn wait_for_refused(follower: &Follower, reason: Refused, count: u32) {
    eventually(&format!("{count} {}", reason.as_str()), || {
        let claims = follower.status.claims();
        claims.is_some_and(|claims| refused(&claims, reason) == count)
    });
}

#[test]
fn what_is_not_permitted_or_not_attached_names_nothing() {
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    let off = Follower::start(&api.kubeconfig());
    let on = Follower::permitting(&api.kubeconfig(), None, permits("198.19.0.0/16"));
    let web = "198.19.5.1".to_owned();
    let status = network("l2sm-system/overlay-veth1", std::slice::from_ref(&web));
    let asked = network("blue", std::slice::from_ref(&web));
    annotated(
        &api,
        "web-0",
        Some("n1"),
        &json!({STATUS: status, ASKED: asked}),
    );
    on.wait_for(&web, "pod default web-0");
    wait_for_refused(&off, Refused::NotPermitted, 1);
    assert_eq!(off.who(&web), "nobody");
    // Others ask for its address, forge what Multus writes, have no node, or want what is elsewhere.
    let elsewhere = "203.0.113.7".to_owned();
    for (name, node, key, address) in [
        ("asks", Some("n1"), ASKED, &web),
        ("forges", Some("n1"), STATUS, &web),
        ("elsewhere", Some("n1"), STATUS, &elsewhere),
        ("pending", None, STATUS, &"198.19.5.2".to_owned()),
    ] {
        let claim = network("x", std::slice::from_ref(address));
        annotated(&api, name, node, &json!({key: claim}));
    }
    for (reason, count) in [
        (Refused::NotAttached, 1),
        (Refused::NotPermitted, 1),
        (Refused::NoNode, 1),
    ] {
        wait_for_refused(&on, reason, count);
    }
    eventually("the forged claim is there", || {
        on.status
            .claims()
            .is_some_and(|claims| claims.contested == 1)
    });
    assert_eq!(on.said_of(&web), ["pod default web-0"], "and nothing else");
    for address in [&*elsewhere, "198.19.5.2"] {
        assert_eq!(on.who(address), "nobody");
    }
    let Some(kubeconfig) = account(&api, "node") else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let examined = check_scope(Some(&kubeconfig), "n1", permits("198.19.0.0/16"));
    let (_, claims) = runtime.block_on(examined).expect("a kubeconfig");
    assert_eq!(claims.claims.counted, 2, "of one address");
    let shown = claims.refused.join("\n");
    for word in [
        "default/asks",
        "default/elsewhere",
        "identity.kubernetes.networks",
    ] {
        assert!(shown.contains(word), "{shown}");
    }
}

#[test]
fn thousands_of_addresses_and_the_largest_annotations() {
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    let follower = Follower::permitting(&api.kubeconfig(), None, permits("10.0.0.0/8"));
    let mut next = u32::from(Ipv4Addr::new(10, 0, 0, 0));
    for number in 0..21 {
        let some = (next..next + 13_000).map(|bits| Ipv4Addr::from_bits(bits).to_string());
        let status = network("x", &some.collect::<Vec<_>>());
        next += 13_000;
        annotated(
            &api,
            &format!("many-{number}"),
            Some("n1"),
            &json!({STATUS: status}),
        );
    }
    // As large as Kubernetes allows. Every other one asks for a network with a name as long.
    for number in 0..40 {
        let address = Ipv4Addr::from_bits(next + number).to_string();
        let status = network("x", &[address]);
        let room = 262_144 - status.len() - STATUS.len() - ASKED.len();
        let asked = ["y", "{"][number as usize % 2].repeat(room);
        let annotations = json!({STATUS: status, ASKED: asked});
        annotated(&api, &format!("large-{number}"), Some("n1"), &annotations);
    }
    wait_for_refused(&follower, Refused::TooMany, 21 * (13_000 - 16));
    eventually("the others count", || {
        let claims = follower.status.claims();
        claims.is_some_and(|claims| claims.counted == 21 * 16 + 20)
    });
    wait_for_refused(&follower, Refused::LongName, 20);
    assert_eq!(follower.who("10.0.0.15"), "pod default many-0");
    assert_eq!(follower.who("10.0.0.16"), "nobody");
}

#[test]
fn no_annotation_changes_the_scope() {
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    namespace(&api, "shop");
    node(&api, 1, Some("198.18.1.0/24"));
    api.create_pod("shop", "web", "n1", &["198.18.1.10"])
        .expect("a pod");
    let Some(kubeconfig) = account(&api, "node") else {
        return;
    };
    let permitted = permits("198.19.0.0/16");
    let one = Agent::permitting(&kubeconfig, 1, free_port(), permitted.clone());
    one.follower.wait_for("198.18.1.10", "pod shop web");
    let claims = network("x", &["198.19.5.1".to_owned(), "203.0.113.7".to_owned()]);
    annotated(
        &api,
        "mallory",
        Some("n1"),
        &json!({STATUS: claims, ASKED: claims}),
    );
    one.follower.wait_for("198.19.5.1", "pod default mallory");
    wait_for_refused(&one.follower, Refused::NotPermitted, 1);
    // Another pod is seen after it, so the scope has been looked at.
    api.create_pod("shop", "next", "n1", &["198.18.1.11"])
        .expect("a pod");
    one.follower.wait_for("198.18.1.11", "pod shop next");
    let scope = one.follower.status.scope().expect("a scope");
    assert_eq!((scope.wanted, scope.now), ("node", "node"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let examined = check_scope(Some(&kubeconfig), "n1", permitted);
    let (outlook, _) = runtime.block_on(examined).expect("a kubeconfig");
    assert_eq!(outlook, Outlook::Holds);
}
