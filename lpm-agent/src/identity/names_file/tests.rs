//! Tests of the names file.

use super::*;

fn parse(text: &str) -> Result<PrefixMap, NamesError> {
    PrefixMap::parse(text, Path::new("names.yaml"))
}

#[test]
fn the_longest_prefix_wins() {
    let names = parse(
        "- {cidr: 198.18.0.0/16, namespace: wide}\n\
         - {cidr: 198.18.5.0/24, namespace: narrow}\n\
         - {address: 198.18.5.7, namespace: one, pod: p}\n\
         - {cidr: \"fd00:1::/32\", namespace: six}\n\
         - {cidr: \"::/0\", namespace: rest}\n",
    )
    .expect("a names file");
    for (address, namespace) in [
        ("198.18.9.9", "wide"),
        ("198.18.5.9", "narrow"),
        ("198.18.5.7", "one"),
        ("fd00:1::9", "six"),
        ("fd00:2::9", "rest"),
    ] {
        let name = names
            .lookup(address.parse().expect("an address"))
            .expect(address);
        assert_eq!(name.namespace.as_deref(), Some(namespace), "{address}");
    }
    assert_eq!(names.len(), 5);
}

#[test]
fn what_has_no_range_has_no_name() {
    let names = parse("- {cidr: 198.18.0.0/16, namespace: a}\n").expect("a names file");
    assert!(names.lookup(IpAddr::from([198, 19, 0, 1])).is_none());
    assert!(parse("").expect("an empty file").is_empty());
    assert!(parse("# nothing yet\n").expect("comments only").is_empty());
}

#[test]
fn kinds_follow_from_what_is_named() {
    let names = parse(
        "- {address: 198.18.0.1, node: n1}\n\
         - {address: 198.18.0.2, service: api, namespace: shop}\n\
         - {address: 198.18.0.3, namespace: shop, pod: p, node: n1}\n\
         - {address: 198.18.0.4, kind: node, namespace: edge}\n",
    )
    .expect("a names file");
    for (last, kind) in [
        (1, Kind::Node),
        (2, Kind::Service),
        (3, Kind::Pod),
        (4, Kind::Node),
    ] {
        let address = IpAddr::from([198, 18, 0, last]);
        assert_eq!(
            names.lookup(address).expect("named").kind,
            kind,
            "{address}"
        );
    }
}

#[test]
fn only_a_node_has_a_zone() {
    let names = parse("- {address: 198.18.0.1, node: n1, zone: west}\n").expect("a names file");
    let name = names.lookup(IpAddr::from([198, 18, 0, 1])).expect("named");
    assert_eq!(name.zone.as_deref(), Some("west"));
    for wrong in [
        "- {address: 198.18.0.1, node: n1}\n- {address: 198.18.0.3, namespace: a, node: n1, zone: west}\n",
        "\n- {address: 198.18.0.1, kind: node, zone: west}\n",
    ] {
        let error = parse(wrong).expect_err("no zone").to_string();
        assert!(
            error.contains("line 2: `zone` is given, which only a node has"),
            "{error}"
        );
    }
}

#[test]
fn a_duplicate_is_refused_by_line() {
    let error = parse(
        "- {cidr: 198.18.5.0/24, namespace: a}\n\
         - {address: 198.18.5.1, namespace: a}\n\
         - {cidr: 198.18.5.9/24, namespace: b}\n",
    )
    .expect_err("a duplicate");
    let text = error.to_string();
    assert!(text.contains("line 3") && text.contains("line 1"), "{text}");
}

#[test]
fn unknown_keys_are_refused_by_name_and_line() {
    let error =
        parse("- {cidr: 198.18.5.0/24, namespace: a}\n- cidr: 198.18.6.0/24\n  namspace: b\n")
            .expect_err("an unknown key");
    let text = error.to_string();
    assert!(text.contains("namspace") && text.contains('3'), "{text}");
}

/// A file with this many entries, each with every key that it may have.
fn large(entries: usize) -> String {
    let entry = |number: usize| {
        let (a, b, c) = (number >> 16, (number >> 8) & 255, number & 255);
        format!(
            "- {{address: 10.{a}.{b}.{c}, kind: pod, namespace: shop, pod: p{number}, workload: w, \
             service: s, node: n}}\n"
        )
    };
    (0..entries).map(entry).collect()
}

#[test]
fn a_file_has_as_many_entries_as_the_kernels_map() {
    assert_eq!(parse(&large(MOST)).expect("a names file").len(), MOST);
    let error = parse(&large(MOST + 1)).expect_err("too many").to_string();
    for word in ["65537", "65536", "`cidr`", "names.yaml"] {
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn a_name_is_not_longer_than_names_are() {
    let named = |length: usize| {
        let pod = "x".repeat(length);
        parse(&format!("- {{address: 198.18.0.1, pod: {pod}}}\n"))
    };
    assert!(named(LONGEST_NAME).is_ok());
    for length in [LONGEST_NAME + 1, 100_000] {
        let error = named(length).expect_err("too long").to_string();
        assert!(error.contains("line 1: `pod` is longer"), "{error}");
    }
}

#[test]
fn an_entry_needs_one_range() {
    for (text, word) in [
        ("- {namespace: a}\n", "neither"),
        (
            "- {namespace: a, address: 198.18.0.1, cidr: 198.18.0.0/16}\n",
            "both",
        ),
    ] {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.contains(word) && error.contains("line 1"), "{error}");
    }
}
