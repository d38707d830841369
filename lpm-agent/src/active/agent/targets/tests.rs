//! Tests of which sessions are wanted.

use std::{path::Path, time::Duration};

use super::*;
use crate::config::Config;

fn read(text: &str) -> Read {
    let text = format!("probes: {{{text}}}");
    let config = Config::parse(&text, Path::new("lpm.yaml")).expect("a configuration");
    Read::new(&config.probes).expect("no key")
}

/// Nodes n1, n2 ... in zones a, b, c, a ...
fn nodes(count: u8) -> Vec<ClusterNode> {
    let node = |nth: u8| ClusterNode {
        name: format!("n{nth}").into(),
        address: Some([198, 18, 0, nth].into()),
        zone: Some(["a", "b", "c"][usize::from(nth) % 3].into()),
    };
    (1..=count).map(node).collect()
}

fn names(wanted: &Wanted) -> Vec<&str> {
    wanted.specs.iter().map(|spec| &*spec.probed.name).collect()
}

fn left_out(wanted: &Wanted) -> Vec<(&'static str, u64)> {
    let all = wanted.left_out.iter();
    all.map(|(reason, count)| (reason.as_str(), *count))
        .collect()
}

#[test]
fn other_nodes_are_targets_where_that_is_asked_for() {
    let all = nodes(4);
    assert!(
        wanted("n1", &read("interval: 5s"), Some(&all))
            .specs
            .is_empty()
    );
    let read = read("classes: [0, 46], nodes: {enabled: true}");
    assert!(wanted("n1", &read, None).specs.is_empty(), "none is known");
    let found = wanted("n1", &read, Some(&all));
    assert_eq!(names(&found), ["n2", "n2", "n3", "n3", "n4", "n4"]);
    assert_eq!((left_out(&found), found.stretch), (vec![], None));
    let second = &found.specs[1];
    assert_eq!((second.class, second.probed.port), (46, 8620));
    assert_eq!(second.address(), Some([198, 18, 0, 2].into()));
    assert_eq!(second.probed.tags["zone"], "c");
    // One more node: the sessions of the others go on.
    let more = wanted("n1", &read, Some(&nodes(5)));
    let pairs = found.specs.iter().zip(&more.specs);
    assert!(
        pairs
            .into_iter()
            .all(|(one, other)| one.is_same_session(other))
    );
    assert_eq!(more.specs.len(), 8);
}

#[test]
fn the_list_goes_first_and_what_is_left_out_is_counted() {
    let read = read(
        "nodes: {enabled: true}, targets: [{name: n1, address: 198.18.0.1}, \
         {name: n2, address: 198.18.9.9}, {name: other, address: 198.18.0.3}]",
    );
    let mut all = nodes(6);
    all[3].address = None;
    all[5].address = all[4].address;
    let found = wanted("n1", &read, Some(&all));
    assert_eq!(names(&found), ["n2", "other", "n5"]);
    assert_eq!(
        found.specs[0].address(),
        Some([198, 18, 9, 9].into()),
        "the list's"
    );
    let expected = [
        ("address", 2),
        ("itself", 1),
        ("name", 1),
        ("no_address", 1),
    ];
    assert_eq!(left_out(&found), expected);
    let stranger = wanted("x", &read, Some(&all));
    assert_eq!(names(&stranger), ["n1", "n2", "other"]);
    assert_eq!(left_out(&stranger), [("not_a_node", 6)]);
    let other = self::read("nodes: {enabled: true}, from: \"fd00::1\"");
    assert_eq!(
        left_out(&wanted("n1", &other, Some(&nodes(3)))),
        [("family", 2)]
    );
}

#[test]
fn more_than_fits_is_counted() {
    let all = nodes(200);
    let many = read("classes: [1, 2, 3, 4], nodes: {enabled: true, full_up_to: 200}");
    let found = wanted("n1", &many, Some(&all));
    assert_eq!(
        (found.specs.len(), left_out(&found)),
        (512, vec![("sessions", 71)])
    );
    let few = read("ports: 40000-40009, nodes: {enabled: true, peers: 12}");
    let found = wanted("n1", &few, Some(&all));
    assert_eq!(
        (found.specs.len(), left_out(&found)),
        (10, vec![("ports", 2)])
    );
}

/// 4.2 packets a second of the list, and 8 nodes of 4.2 each in what is left of 21.
#[test]
fn nodes_share_what_is_left_of_the_budget() {
    let read = read(
        "packets_per_second: 21, nodes: {enabled: true}, \
         targets: [{name: fixed, address: 198.18.9.9}]",
    );
    let found = wanted("n1", &read, Some(&nodes(9)));
    let stretch = found.stretch.expect("a budget");
    assert!((stretch - 2.0).abs() < 1e-9, "{stretch}");
    let intervals: Vec<Duration> = found.specs.iter().map(|spec| spec.interval).collect();
    let (fixed, long) = (Duration::from_secs(5), Duration::from_secs(10));
    assert_eq!((intervals[0], &intervals[1..]), (fixed, &[long; 8][..]));
    let fits = wanted("n1", &read, Some(&nodes(4)));
    assert_eq!(fits.stretch, Some(1.0));
    assert!(fits.specs.iter().all(|spec| spec.interval == fixed));
    // The interval alone makes no new session.
    assert!(fits.specs[1].is_same_session(&found.specs[1]));
}
