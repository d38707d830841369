//! Tests of the keys `probes` and `reflector`.

use std::path::Path;

use super::*;
use crate::config::{Config, ConfigError};

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("lpm.yaml"))
}

#[test]
fn a_target_takes_what_it_does_not_say_from_all() {
    let config = parse(
        "probes:\n  classes: [0, 46]\n  interval: 2s\n  targets:\n  - address: node-2\n  - {address: \"[fd00::2]:99\", name: n3, train: {packets: 1}, interval: 1m, classes: [0], from: eth0}\n",
    )
    .expect("a configuration");
    let probed = config.probes.probed();
    let [two, three] = &probed[..] else {
        panic!("{probed:?}");
    };
    assert_eq!(
        (&*two.name, two.port, &two.host),
        ("node-2", 8620, &Host::Name("node-2".to_owned()))
    );
    assert_eq!(
        (two.train, &two.classes[..], two.interval),
        (Train::default(), &[0, 46][..], Duration::from_secs(2))
    );
    assert_eq!(
        (three.port, three.train.packets, three.train.spacing),
        (99, 1, Duration::from_millis(1))
    );
    assert_eq!(
        (three.interval, three.from.as_deref()),
        (Duration::from_mins(1), Some("eth0"))
    );
    let shown = config.to_yaml().expect("YAML");
    assert_eq!(parse(&shown).expect(&shown), config);
}

#[expect(clippy::too_many_lines, reason = "one list")]
#[test]
fn what_cannot_work_is_refused_by_key_and_line() {
    let many = "{address: h, classes: [1,2,3,4,5,6,7,8]},".repeat(2);
    for (text, word) in [
        ("probes: {target: []}", "target"),
        ("probes: {port: 0}", "probes.port"),
        ("probes: {interval: 0s}", "probes.interval is 0s"),
        ("probes: {interval: 365days}", "probes.interval is 11months"),
        (
            "probes: {interval: 100ms, train: {packets: 200}}",
            "at least as long as the train",
        ),
        ("probes: {train: {packets: 0}}", "1 to 1000 packets"),
        ("probes: {train: {spacing: 1us}}", "spacing"),
        ("probes: {train: {count: 3}}", "count"),
        ("probes: {classes: []}", "probes.classes"),
        ("probes: {classes: [64]}", "probes.classes"),
        ("probes: {classes: [1, 1]}", "different values"),
        ("probes: {timeout: 1h}", "probes.timeout"),
        ("probes: {size: 9217}", "probes.size"),
        (
            "probes: {targets: [{address: 198.18.0.1}]}",
            "metrics name no address",
        ),
        ("probes: {targets: [{name: a}]}", "give an address"),
        ("probes: {targets: [{address: \"a:0\"}]}", "give an address"),
        ("probes: {targets: [{address: \"a b\"}]}", "give an address"),
        (
            "probes: {targets: [{address: a}, {address: b, name: a}]}",
            "give each name once",
        ),
        (
            "probes: {targets: [{address: a, interval: 0s}]}",
            "\"a\" with interval 0s",
        ),
        ("probes: {targets: [{address: a, nmae: b}]}", "nmae"),
        (
            "probes: {targets: [{address: a, tags: {0rack: b}}]}",
            "\"a\" with tag \"0rack\": name a tag as a label",
        ),
        (
            "probes: {targets: [{address: a, tags: {rack: \"\"}}]}",
            "1 to 253 bytes",
        ),
        (
            "probes: {targets: [{address: a, tags: {rack: \"b\\n\"}}]}",
            "control characters",
        ),
        (
            "probes: {targets: [{address: \"::1\", name: a, from: 127.0.0.1}]}",
            "family",
        ),
        (
            "probes: {targets: [{address: a, key: {session: 0, file: k}}]}",
            "session",
        ),
        (
            &*format!("probes: {{targets: [{many}]}}"),
            "give each name once",
        ),
        (
            "probes: {groups: [rack, rack]}",
            "probes.groups is \"rack\"",
        ),
        ("probes: {groups: [a, b, c, d, e]}", "give at most 4 tags"),
        ("probes: {schedule: sometimes}", "sometimes"),
        ("probes: {spread_factor: 1.1}", "from 0 to 1"),
        ("probes: {ports: 40000}", "40000"),
        ("probes: {ports: 2-1}", "from the lowest to the highest"),
        (
            "probes: {ports: 40000-40000, classes: [0, 46], targets: [{address: a}]}",
            "probes.ports is 40000-40000: 1 ports for 2 sessions",
        ),
        (
            "probes: {packets_per_second: 8, classes: [0, 46], targets: [{address: a}]}",
            "probes.packets_per_second is 8, and the list of targets takes 8.4: give at least that",
        ),
        (
            "probes: {packets_per_second: 0}",
            "probes.packets_per_second",
        ),
        (
            "probes: {packets_per_second: 5, nodes: {enabled: true}, targets: [{address: a}]}",
            "one more for probes.nodes",
        ),
        ("probes: {nodes: {peers: 0}}", "probes.nodes.peers"),
        (
            "probes: {nodes: {full_up_to: 513}}",
            "probes.nodes.full_up_to is 513",
        ),
        ("probes: {nodes: {all: true}}", "all"),
        ("reflector: {listen: [\"[::]:0\"]}", "give a port"),
        (
            "reflector: {listen: [\"[::]:1\", \"[::]:1\"]}",
            "give it once",
        ),
        ("reflector: {listen: [here]}", "line 2"),
        ("reflector: {allow: [all]}", "local, nodes, peers"),
        ("reflector: {rate: 0}", "reflector.rate"),
        (
            "reflector: {keys: [{session: 1, file: a}, {session: 1, file: b}]}",
            "each session once",
        ),
        ("reflector: {port: 1}", "port"),
    ] {
        let error = parse(&format!("# first\n{text}\n"))
            .expect_err(text)
            .to_string();
        assert!(
            error.contains(word) && error.contains("line 2"),
            "{text}: {error}"
        );
    }
}

#[test]
fn sessions_are_bounded() {
    let target = |nth: usize| Target {
        address: format!("host-{nth}"),
        ..Target::default()
    };
    let mut probes = Probes {
        targets: (0..SESSIONS).map(target).collect(),
        ..Probes::default()
    };
    assert!(probes.check().is_ok());
    probes.targets = (0..10_000).map(target).collect();
    let error = probes.check().expect_err("too many").to_string();
    assert!(error.contains("10000 sessions"), "{error}");
    probes.targets.truncate(SESSIONS);
    probes.classes = vec![0, 46];
    let error = probes.check().expect_err("too many").to_string();
    assert!(
        error.contains("1024 sessions") && error.contains("at most 512"),
        "{error}"
    );
}

#[test]
fn tags_are_bounded_and_make_no_session() {
    let text = "probes: {targets: [{address: a, tags: {zone: b, rack: \"01\"}}]}";
    let config = parse(text).expect("a configuration");
    let [probed] = &config.probes.probed()[..] else {
        panic!("one target");
    };
    assert_eq!(probed.tags["rack"], "01");
    let mut other = probed.clone();
    other.tags = Arc::default();
    assert!(probed != &other && probed.is_same_session(&other));
    other.port += 1;
    assert!(!probed.is_same_session(&other));
    let many = |most: u32| {
        let tags = (0..most).map(|nth| (format!("t{nth}"), "x".repeat(253)));
        tags::check(&tags.collect())
    };
    assert!(many(tags::MOST).is_ok());
    assert!(many(tags::MOST + 1).is_err());
}

#[test]
fn what_is_scheduled_is_read_and_shown() {
    let text = "probes: {schedule: poisson, spread_factor: 0.35, ports: 40000-40511, \
                packets_per_second: 500, suppress_after: 0, nodes: {enabled: true, peers: 8}}";
    let config = parse(text).expect("a configuration");
    let probes = &config.probes;
    assert_eq!(probes.schedule, Schedule::Poisson);
    assert!((probes.spread_factor.get() - 0.35).abs() < 1e-9);
    assert_eq!(
        probes.ports.map(|ports| (ports.count(), ports.range())),
        Some((512, 40_000..=40_511))
    );
    assert_eq!(
        (
            probes.nodes.enabled,
            probes.nodes.peers,
            probes.nodes.full_up_to
        ),
        (true, 8, 50)
    );
    let shown = config.to_yaml().expect("YAML");
    assert_eq!(parse(&shown).expect(&shown), config);
    let of = Probes::default().node("n2", [198, 18, 0, 2].into(), Tags::new());
    assert!((of.packets_per_second() - 21.0 / 5.0).abs() < 1e-9);
}
