use std::time::Duration;

use super::*;
use crate::config::Allowed;

/// L2S-M LPM's documented example, with its comma before a closing brace.
const NODE_A: &str = r#"{
  "Nodename": "NodeA",
  "spreadFactor": 0.2,
  "probeInterface": "net1",
  "ipAddress": "10.0.2.2/24",
  "MetricsNeighbourNodes": [
    {
      "name": "NodeB",
      "ip": "10.0.2.4",
      "jitterInterval": 10,
      "throughputInterval": 20,
      "rttInterval": 3
    },
    {
      "name": "NodeC",
      "ip": "10.0.2.6",
      "rttInterval": 20,
      "throughputInterval": 20,
    }
  ]
}
"#;

const CHART: &str = "global:
  nodes:
  - name: n1
    ip: 10.0.0.2/24
    metrics: {rttInterval: 10, throughputInterval: 20, jitterInterval: 5}
  - name: n2
    ip: 10.0.0.3/24
    metrics: {rttInterval: 10}
  network:
    name: lpm-network
  namespace: default
  spreadFactor: 0.2
";

const LLAMA: &str = "summarization:
    interval:   30
    handlers:   2
api:
    bind:   0.0.0.0:5000
ports:
    default: {ip: 0.0.0.0, port: 0, tos: 0, timeout: 1000}
    expedited: {ip: 0.0.0.0, port: 0, tos: 184, timeout: 500}
port_groups:
    default:
        - port: default
          count: 4
        - port: expedited
          count: 2
rate_limits:
    default:
        cps: 4.0
tests:
    - targets: default
      port_group: default
      rate_limit: default
targets:
    default:
        - ip: 198.18.0.1
          port: 8100
          tags:
            dst_hostname: host-1
            src_hostname: host-0
            rack: 01
        - ip: fd00::2
          port: 8100
          tags: {dst_hostname: host-1, src_hostname: host-0, on: true}
        - ip: host-3.example
          port: 8101
          tags: {src_hostname: host-0, rack-row: 7, none: ''}
";

const LEGACY: &str = "198.18.0.1:
    dst_hostname: host-1
    rack: 01
198.18.0.2:
";

fn path() -> &'static Path {
    Path::new("a.file")
}

fn foreign(text: &str) -> Foreign {
    let foreign = Foreign::parse(text, path());
    foreign.expect(text).expect("another system's file")
}

fn config(text: &str) -> Config {
    Config::parse(text, path()).expect(text)
}

fn error(text: &str) -> String {
    let error = Config::parse(text, path()).expect_err(text);
    error.to_string()
}

fn notes(text: &str) -> String {
    let notes = foreign(text).nodes.into_iter().flat_map(|node| node.notes);
    let notes: Vec<_> = notes.map(|note| note.to_string()).collect();
    notes.join("\n")
}

#[test]
fn a_node_of_l2sm_probes_its_neighbours_and_answers_them() {
    let config = config(NODE_A);
    assert_eq!(config.role, Role::Prober);
    assert_eq!(config.node_name.as_deref(), Some("NodeA"));
    assert!(config.export.l2sm_series);
    assert_eq!(config.export.listen.map(|at| at.port()), Some(8090));
    let probed = config.probes.probed();
    let told = probed.iter().map(|one| {
        let from = one.from.as_deref().unwrap_or_default();
        format!(
            "{} {:?} {} {:?} {from}",
            one.name, one.host, one.port, one.interval
        )
    });
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            "NodeB Address(10.0.2.4) 8620 180s net1",
            "NodeC Address(10.0.2.6) 8620 1200s net1"
        ]
    );
    let allow: Vec<String> = config
        .reflector
        .allow
        .iter()
        .map(Allowed::to_string)
        .collect();
    assert_eq!(allow, ["local", "10.0.2.4/32", "10.0.2.6/32"]);
    assert_eq!(config.reflector.listen.len(), 1);
}

#[test]
fn what_l2sm_measures_and_this_does_not_is_named_by_line() {
    let notes = notes(NODE_A);
    for words in [
        "line 11: throughputInterval: the throughput to NodeB (every 20 min) is not measured yet",
        "line 18: throughputInterval",
        "line 8: the packets that measure one figure of NodeB measure all: each is measured every 3 min",
    ] {
        assert!(notes.contains(words), "{words} in {notes}");
    }
    assert_eq!(notes.lines().count(), 3, "{notes}");
}

#[test]
fn the_spread_factor_is_the_schedules() {
    let of = |factor: &str| {
        let text = NODE_A.replace("\"spreadFactor\": 0.2", factor);
        assert!(text.contains(factor), "{text}");
        config(&text).probes.spread_factor.get()
    };
    for (factor, share) in [
        ("\"spreadFactor\": 0.2", 0.2),
        ("\"spreadFactor\": 0.35", 0.35),
        ("\"spreadFactor\": 0", 0.0),
        ("\"spreadFactor\": \"\"", 0.2),
    ] {
        assert!((of(factor) - share).abs() < 1e-9, "{factor}");
    }
}

/// No interval is nothing measured, -1 is none, and the node itself is no neighbour.
#[test]
fn a_neighbour_without_an_interval_is_answered_and_not_probed() {
    let text = r#"{"Nodename": "a", "ipAddress": "10.0.0.1/24", "SpreadFactor": "",
        "MetricsNeighbourNodes": [
        {"name": "b", "ip": "10.0.0.2", "rttInterval": -1},
        {"name": "me", "ip": "10.0.0.1", "rttInterval": 1},
        {"name": "d", "ip": "10.0.0.4", "otdInterval": 7, "jitterInterval": null},],}"#;
    let config = config(text);
    let probed = config.probes.probed();
    assert_eq!(probed.len(), 1);
    assert_eq!(probed[0].interval, Duration::from_mins(7));
    assert_eq!(probed[0].from.as_deref(), Some("10.0.0.1"));
    assert!(
        config
            .reflector
            .allow
            .iter()
            .any(|one| one.to_string() == "10.0.0.2/32")
    );
    let notes = notes(text);
    for words in [
        "line 3: b has no interval",
        "line 4: me is this node itself",
    ] {
        assert!(notes.contains(words), "{words} in {notes}");
    }
}

#[test]
fn only_commas_outside_of_texts_are_mended() {
    for (text, mended) in [
        (
            r#"{"a": "x,}", "b": [1,2 , ],}"#,
            r#"{"a": "x,}", "b": [1,2   ] }"#,
        ),
        (r#"{"a": "\",]",}"#, r#"{"a": "\",]" }"#),
        ("{\t\"a\": 1,\n}", "{ \"a\": 1 \n}"),
        ("a: [1,]\n", "a: [1,]\n"),
    ] {
        assert_eq!(l2sm::mend(text), mended);
    }
}

#[test]
fn what_is_odd_in_a_file_of_l2sm_is_refused_by_name_and_line() {
    let node = |neighbour: &str| {
        format!("{{\n\"Nodename\": \"a\",\n\"MetricsNeighbourNodes\": [\n{{{neighbour}}}\n]\n}}")
    };
    let b = r#""name": "b", "ip": "10.0.0.2""#;
    for (text, words) in [
        (node(&format!("{b}, \"rttinterval\": 3")), "rttinterval"),
        (
            node(&format!("{b}, \"rttInterval\": 0")),
            "line 4: rttInterval is 0: give minutes",
        ),
        (
            node(&format!("{b}, \"rttInterval\": 1441")),
            "line 4: rttInterval is 1441",
        ),
        (node(&format!("{b}, \"rttInterval\": \"often\"")), "line 4"),
        (node(&format!("{b},, \"rttInterval\": 3")), "line 4"),
        (
            node(r#""name": "b", "ip": "10.0.0.300""#),
            "line 4: \"10.0.0.300\" is no address",
        ),
        (
            node(r#""name": "b", "ip": "10.0.0.3/99""#),
            "line 4: \"10.0.0.3/99\" is no address",
        ),
        (node(r#""name": "b""#), "ip"),
        (
            node(r#""name": "", "ip": "10.0.0.2", "rttInterval": 1"#),
            "name is empty",
        ),
        (format!("{},\n{}", node(b), node(b)), "no JSON"),
        (
            node(b).replace("\"a\"", "\"\""),
            "line 2: Nodename is empty",
        ),
        (
            node(b).replace("\"Nodename\": \"a\"", "\"Nodenamen\": \"a\""),
            "Nodenamen",
        ),
        (
            node(b).replace(
                "\"Nodename\": \"a\"",
                "\"Nodename\": \"a\", \"spreadFactor\": 2",
            ),
            "spreadFactor is 2",
        ),
    ] {
        let error = error(&text);
        assert!(error.contains(words), "{words} in {error}");
        assert!(
            error.contains("a.file, which is L2S-M LPM's configuration"),
            "{error}"
        );
    }
}

#[test]
fn a_neighbour_that_is_there_twice_is_refused() {
    let text = NODE_A.replace("NodeC", "NodeB");
    assert!(
        error(&text).contains("give each name once"),
        "{}",
        error(&text)
    );
}

#[test]
fn a_file_of_two_systems_is_refused_by_both_keys() {
    for (text, words) in [
        (
            NODE_A.replace("\"ipAddress\"", "\"node_name\": \"x\",\n\"ipAddress\""),
            ["line 2 has Nodename", "line 5 has node_name"],
        ),
        (
            format!("probes: {{interval: 1s}}\n{LLAMA}"),
            ["line 2 has summarization", "line 1 has probes"],
        ),
        (
            format!("{LEGACY}listen: \"[::]:9477\"\n"),
            ["line 1 has 198.18.0.1", "line 5 has listen"],
        ),
        (
            format!("{CHART}rows: 4\n"),
            ["line 1 has global", "line 13 has rows"],
        ),
    ] {
        let error = error(&text);
        for words in words {
            assert!(error.contains(words), "{words} in {error}");
        }
        assert!(error.contains("keep the keys of one of them"), "{error}");
    }
}

/// A file of ours with one key of another system's is one of ours, with an unknown key.
#[test]
fn a_slip_makes_no_foreign_file() {
    for text in [
        "targets: []\n",
        "listen: \"[::]:1\"\ntests: []\n",
        "flows: 64\nglobals: 1\n",
    ] {
        assert!(
            Foreign::parse(text, path()).expect(text).is_none(),
            "{text}"
        );
    }
}

#[test]
fn the_values_of_the_chart_are_a_configuration_for_each_node() {
    let all = foreign(CHART).nodes;
    let [first, second] = &all[..] else {
        panic!("{all:?}");
    };
    assert_eq!(first.node.as_deref(), Some("n1"));
    let probed = first.config.probes.probed();
    assert_eq!(probed[0].name, "n2");
    assert_eq!(probed[0].interval, Duration::from_mins(10));
    assert_eq!(probed[0].from.as_deref(), Some("10.0.0.2"));
    // What n1 is to be measured by.
    assert_eq!(
        second.config.probes.probed()[0].interval,
        Duration::from_mins(5)
    );
    let error = error(CHART);
    assert!(
        error.contains("lpm config import --node NAME FILE"),
        "{error}"
    );
    let yaml = foreign(CHART).to_yaml(None).expect("all");
    assert_eq!(yaml.matches("\n---\n").count(), 1, "{yaml}");
    assert_eq!(foreign(CHART).to_yaml(Some("n3")), None);
}

#[test]
fn tests_of_llama_are_trains_to_targets() {
    let config = config(LLAMA);
    assert_eq!(config.role, Role::Prober);
    assert_eq!(config.node_name.as_deref(), Some("host-0"));
    assert_eq!(config.export.listen, Some(([0, 0, 0, 0], 5000).into()));
    let probed = config.probes.probed();
    let names: Vec<_> = probed.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["host-1", "host-1-2", "host-3.example"]);
    let [first, second, third] = &probed[..] else {
        panic!("{probed:?}");
    };
    assert_eq!(first.interval, Duration::from_millis(250));
    assert_eq!(first.train.packets, 4);
    assert_eq!(first.classes, [0, 46]);
    assert_eq!(first.timeout, Duration::from_secs(1));
    assert_eq!((first.port, third.port), (8100, 8101));
    assert_eq!(first.tags["rack"], "01", "a text, as it is written");
    assert_eq!(second.tags["on"], "true");
    assert_eq!(third.tags["rack_row"], "7");
    let notes = notes(LLAMA);
    for words in [
        "line 2: summarization",
        "line 5: bind: /metrics is served there",
        "line 11: count: 4 packets in a row of one source port",
        "another target has the name host-1, too: its name is host-1-2",
        "the tag \"rack-row\" is called rack_row",
        "the tag none is empty",
        "LLAMA's reflectors speak another protocol",
    ] {
        assert!(notes.contains(words), "{words} in {notes}");
    }
}

#[test]
fn cycles_faster_than_trains_are_put_together() {
    for (cps, interval, packets) in [
        ("0.5", Duration::from_secs(2), 4),
        ("10", Duration::from_millis(100), 4),
        ("25", Duration::from_millis(120), 12),
        ("200", Duration::from_millis(100), 80),
    ] {
        let text = LLAMA.replace("4.0", cps);
        let probed = config(&text).probes.probed();
        assert_eq!(
            (probed[0].interval, probed[0].train.packets),
            (interval, packets),
            "{cps}"
        );
    }
}

#[test]
fn the_older_form_of_llama_has_its_collectors_defaults() {
    let config = config(LEGACY);
    let probed = config.probes.probed();
    let [first, second] = &probed[..] else {
        panic!("{probed:?}");
    };
    assert_eq!(
        (first.name.as_str(), second.name.as_str()),
        ("host-1", "target-2")
    );
    assert_eq!(
        (first.port, first.interval),
        (8100, Duration::from_millis(250))
    );
    assert_eq!(first.tags["rack"], "01");
    assert!(
        notes(LEGACY).contains("line 4: the target has no tag dst_hostname"),
        "{}",
        notes(LEGACY)
    );
}

#[test]
fn what_is_odd_in_a_file_of_llama_is_refused_by_name_and_line() {
    for (text, words) in [
        (
            LLAMA.replace("port_group: default", "port_group: deflaut"),
            "line 20: \"deflaut\" is not among `port_groups`",
        ),
        (
            LLAMA.replace("- port: expedited", "- port: lost"),
            "\"lost\" is not among `ports`",
        ),
        (LLAMA.replace("count: 2", "count: 0"), "line 14: count is 0"),
        (LLAMA.replace("cps: 4.0", "cps: 0"), "line 17: cps is 0"),
        (LLAMA.replace("cps: 4.0", "cps: .nan"), "cps is NaN"),
        (
            LLAMA.replace("cps: 4.0", "cps: 4.0\n        burst: 1"),
            "burst",
        ),
        (LLAMA.replace("tos: 184", "tos: 300"), "from 0 to 255"),
        (
            LLAMA
                .replace("timeout: 1000", "timeout: 0")
                .replace("timeout: 500", "timeout: 0"),
            "10ms to 1m",
        ),
        (
            LEGACY.replace("198.18.0.2", "host-2"),
            "line 4: \"host-2\" is no address",
        ),
    ] {
        let error = error(&text);
        assert!(error.contains(words), "{words} in {error}");
        assert!(error.contains("a.file, which is LLAMA's"), "{error}");
    }
}

#[test]
fn more_targets_than_sessions_are_refused() {
    let many = (0..10_000).map(|number| format!("198.18.{}.{}:", number / 250, number % 250));
    let error = error(&many.collect::<Vec<_>>().join("\n"));
    assert!(error.contains("512"), "{error}");
}

/// What `lpm config import` prints is the configuration that `lpm run` has of the same file.
#[test]
fn what_is_printed_is_what_runs() {
    for text in [NODE_A, LLAMA, LEGACY] {
        let yaml = foreign(text).to_yaml(None).expect("YAML");
        let ours = Config::parse(&yaml, path()).expect(&yaml);
        assert_eq!(ours, config(text), "{yaml}");
        assert!(
            yaml.starts_with("# From ") && yaml.contains("\n# - "),
            "{yaml}"
        );
        assert!(!yaml.contains("null") && !yaml.contains("flows:"), "{yaml}");
    }
    for node in foreign(CHART).nodes {
        let yaml = foreign(CHART).to_yaml(node.node.as_deref()).expect("YAML");
        assert_eq!(
            Config::parse(&yaml, path()).expect(&yaml),
            node.config,
            "{yaml}"
        );
    }
}

/// A name in a comment, or in a text of JSON, must not become a key.
#[test]
fn names_break_no_line() {
    let text = r#"{"Nodename": "a\nrows: 4", "MetricsNeighbourNodes": [
        {"name": "b\n- c", "ip": "10.0.0.2", "rttInterval": 1, "throughputInterval": 1}]}"#;
    let error = error(text);
    assert!(error.contains("1 to 253 characters"), "{error}");
    let text = text.replace("b\\n- c", "b");
    let yaml = foreign(&text).to_yaml(None).expect("YAML");
    assert_eq!(
        Config::parse(&yaml, path()).expect(&yaml),
        config(&text),
        "{yaml}"
    );
}
