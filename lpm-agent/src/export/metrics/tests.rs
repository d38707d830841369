//! Tests of the metrics.

use std::time::Duration;

use lpm_common::layout::{Echo, Leg, NameId, NameValue, PairKey, PeerKind, Vantage};

use super::{
    super::agent::{ConfigHash, ProgramTimes},
    *,
};
use crate::passive::{
    Model,
    model::tests::{model, observe, tables},
};

/// The metrics of a model, of an agent whose programs' run time is not measured.
pub(in crate::export) fn metrics_of(model: &Arc<Model>) -> Metrics {
    with_times(model, Box::new(Vec::new))
}

fn with_times(model: &Arc<Model>, times: ProgramTimes) -> Metrics {
    let hash = Arc::new(ConfigHash::new("0123".to_owned()));
    Metrics::new(Collectors::of_agent(model, hash, times, Arc::default()))
}

/// The metrics of one pair of namespaces.
pub(crate) fn metrics() -> Metrics {
    let name = |namespace| NameValue::new(NameId::new(namespace, 0), PeerKind::Pod);
    let tables = tables(&[PairKey::new(Vantage::Pod as u8, name(1), name(2))]);
    observe(&tables, 1, Leg::Remote, Echo::Data as usize, 30_000_000);
    metrics_of(&Arc::new(model(tables)))
}

fn text(metrics: &Metrics, format: Format) -> String {
    String::from_utf8(metrics.encode(format).expect("metrics")).expect("text")
}

#[test]
fn text_formats_show_the_same() {
    let metrics = metrics();
    let open = text(&metrics, Format::OpenMetrics);
    assert!(open.ends_with("# EOF\n"), "{open}");
    let plain = text(&metrics, Format::Text);
    let series = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let lines = lines.filter(|line| !line.contains("_created"));
        let mut series: Vec<String> = lines
            .filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned()))
            .collect();
        series.sort();
        series
    };
    assert_eq!(series(&open), series(&plain));
    let wanted = "lpm_rtt_seconds_count{namespace=\"a\",peer_namespace=\"b\",peer_kind=\"pod\",leg=\"remote\",echo=\"data\"} 1";
    assert!(plain.lines().any(|line| line == wanted), "{plain}");
    assert!(open.lines().any(|line| line == wanted), "{open}");
}

#[test]
fn all_counters_and_histograms_tell_since_when_they_count() {
    let maps = SystemTime::UNIX_EPOCH + Duration::from_millis(1_234_567);
    let metrics = metrics().counting_since(maps);
    let open = text(&metrics, Format::OpenMetrics);
    let kinds = open.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    for kind in kinds {
        let (name, kind) = kind.split_once(' ').expect("a kind");
        let created = open.lines().find(|line| {
            let rest = line
                .strip_prefix(name)
                .and_then(|line| line.strip_prefix("_created"));
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        let counts = matches!(kind, "counter" | "histogram");
        assert_eq!(created.is_some(), counts, "{name} {kind}");
        let Some(created) = created else { continue };
        let agents = ["process_", "lpm_segment_", "lpm_http_"];
        let of_maps = !agents.iter().any(|agents| name.starts_with(agents));
        assert_eq!(created.ends_with(" 1234.567"), of_maps, "{created}");
    }
    let names = "lpm_map_drops_created{map=\"names\",reason=\"full\"}";
    let names = open.lines().find(|line| line.starts_with(names));
    assert!(!names.expect("names").ends_with(" 1234.567"), "the agent's");
    let count = |family: &MetricFamily| {
        let metrics = family.metric.iter();
        let times = metrics.filter_map(|metric| metric.histogram.as_ref()?.start_timestamp);
        times
            .filter(|time| (time.seconds, time.nanos) == (1234, 567_000_000))
            .count()
    };
    let families = metrics.families().expect("families");
    let rtt = families
        .iter()
        .find(|family| family.name == "lpm_rtt_seconds");
    let rtt = rtt.expect("round trips");
    assert_eq!(count(rtt), rtt.metric.len());
    assert!(!text(&metrics, Format::Text).contains("_created"));
}

#[test]
fn the_process_is_there_by_its_usual_names() {
    let plain = text(&metrics(), Format::Text);
    for name in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
        "process_start_time_seconds",
    ] {
        let line = plain
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value: f64 = line.expect(name).parse().expect("a number");
        assert!(
            value >= 0.0 && (value > 0.0 || name.contains("cpu")),
            "{name} {value}"
        );
    }
}

#[test]
fn what_was_never_measured_has_no_series() {
    let plain = text(&metrics(), Format::Text);
    for absent in [
        "leg=\"local\",echo",
        "echo=\"lone\"",
        "lpm_program_run",
        "lpm_flow_rtt",
    ] {
        assert!(!plain.contains(absent), "{absent} in {plain}");
    }
    let drops = "lpm_map_drops_total{map=\"rows\",reason=\"full\"} 0";
    assert!(
        plain.contains(drops),
        "a counter that stands at zero is measured: {plain}"
    );
}

#[test]
fn classic_histograms_have_at_most_26_buckets() {
    let plain = text(&metrics(), Format::Text);
    let of_data = |line: &&str| line.contains("echo=\"data\"") && line.contains("_bucket");
    let buckets: Vec<&str> = plain.lines().filter(of_data).collect();
    assert_eq!(buckets.len(), 26);
    assert!(buckets[25].contains("le=\"+Inf\"") && buckets[25].ends_with(" 1"));
}

#[test]
fn twenty_pairs_of_namespaces_stay_within_the_budget() {
    let name = |namespace| NameValue::new(NameId::new(namespace, 0), PeerKind::Pod);
    let pairs: Vec<PairKey> = (0..20)
        .map(|pair| PairKey::new(Vantage::Pod as u8, name(pair + 1), name(pair + 1)))
        .collect();
    let tables = tables(&pairs);
    for row in 1..=pairs.len() {
        for leg in [Leg::Remote, Leg::Local] {
            for place in 0..4 {
                observe(&tables, row, leg, place, 1000);
            }
        }
    }
    let model = model(tables);
    let names: Vec<String> = (0..20)
        .map(|n| format!("- {{cidr: 198.19.{n}.0/24, namespace: n{n}}}"))
        .collect();
    let names = crate::identity::PrefixMap::parse(&names.join("\n"), "names.yaml".as_ref());
    model.registry().replace(&names.expect("names"), &[]);
    model.ids().follow_all(model.tables()).expect("follow");
    let metrics = metrics_of(&Arc::new(model));
    let plain = text(&metrics, Format::Text);
    let classic = plain.lines().filter(|line| !line.starts_with('#')).count();
    let native: usize = prometheus_protobuf::encode(&metrics.registry)
        .expect("families")
        .iter()
        .map(|family| family.metric.len())
        .sum();
    println!("20 pairs of namespaces: {native} series native, {classic} classic");
    assert!((160 * 28..5000).contains(&classic), "{classic}");
    assert!((160..2000).contains(&native), "{native}");
}

#[test]
fn program_times_are_shown_while_they_are_measured() {
    let times: ProgramTimes = Box::new(|| vec![("lpm_from_local", Duration::from_millis(1500))]);
    let metrics = with_times(&Arc::new(model(tables(&[]))), times);
    let plain = text(&metrics, Format::Text);
    let wanted = "lpm_program_run_seconds_total{program=\"lpm_from_local\"} 1.5";
    assert!(plain.contains(wanted), "{plain}");
}
