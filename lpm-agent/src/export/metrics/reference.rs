//! `docs/metrics.md`, and the list of metrics that must not change by accident.

use std::{collections::BTreeMap, time::Duration};

use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model::MetricType;

use super::{
    super::{
        agent::ProgramTimes, clock::Clocks, collect::Collect, families::Families, ports, probes,
        process, reflector,
    },
    *,
};
use crate::{
    active::{agent::figures::Figures, clock::Claim},
    docs::{assert_current, table},
    kernel::{
        interfaces::{Interface, Kind},
        own::{MemoryLimit, OwnProcess},
        ports::{Carried, Port},
    },
    passive::model::tests::everything,
};

const HEAD: &str = "# Metrics\n\n\
Every metric that an agent serves at `/metrics`. The agent's own source made this page: names, types\n\
and labels are what the exporter writes, and the meaning is its HELP text.\n\n\
A metric that was not measured has no series: \"not measured\" is never 0.\n\
[Reading the numbers](reading-the-numbers.md) has queries, and what the labels `leg` and `echo` say.\n\
Where pods' labels are asked for, `label_team` stands for each of them.\n\n";

/// What depends on the machine, with made-up values.
struct Machine;

impl Collect for Machine {
    fn collect(&self, out: &mut Families<'_>) -> fmt::Result {
        process::memory(Some(MemoryLimit { limit: 2, used: 1 }), out)?;
        let carried = Carried::default();
        let port = Port {
            interface: Interface {
                index: 7,
                name: "eth0".to_owned(),
                kind: Kind::Physical,
                link_type: 1,
                mtu: None,
                up: true,
                master: None,
                peer: None,
                peer_elsewhere: false,
                xdp: None,
            },
            received: carried,
            transmitted: carried,
            capacity: Some(1),
            remotes: Vec::new(),
        };
        let labels = ["interface", "vantage"].map(|name| (name, String::new()));
        ports::write(&[(labels.into(), &port)], out)
    }
}

/// The agent's process, with made-up values.
struct Process;

impl Collect for Process {
    fn prefix(&self) -> &'static str {
        "process"
    }

    fn collect(&self, out: &mut Families<'_>) -> fmt::Result {
        let number = Some(1);
        let own = OwnProcess {
            cpu: Some(Duration::from_secs(1)),
            resident: number,
            virtual_memory: number,
            virtual_memory_max: number,
            open_files: number,
            open_files_max: number,
            started: Some(SystemTime::now()),
        };
        process::own(&own, out)
    }
}

/// A metric as it is documented.
struct Metric {
    kind: &'static str,
    labels: Vec<String>,
    help: String,
}

/// All metrics of an agent that measures everything, by name.
fn metrics() -> BTreeMap<String, Metric> {
    let times: ProgramTimes = Box::new(|| vec![("lpm_from_local", Duration::from_secs(1))]);
    let model = Arc::new(everything());
    let mut sources = Collectors::of_agent(&model, Arc::default(), times, Arc::default());
    // In place of this machine's.
    sources.register(Machine);
    sources.register(Process);
    let mut sources = sources.and_probes(&probes::everything(), &reflector::everything());
    let claim = || Claim {
        error: Some(50_000),
    };
    let nothing = Arc::new(Figures::new("n1".into()));
    if Claim::ask().error.is_none() {
        sources.register(Clocks::claiming(nothing, claim));
    }
    let metrics = Metrics::new(sources);
    let mut all = BTreeMap::new();
    for family in metrics.families().expect("metrics") {
        let of_series = family.metric.iter().map(|series| {
            let labels = series.label.iter().map(|label| label.name.clone());
            labels.collect::<Vec<_>>()
        });
        let mut of_series: Vec<_> = of_series.collect();
        of_series.dedup();
        assert_eq!(of_series.len(), 1, "{}: {of_series:?}", family.name);
        let metric = Metric {
            kind: match family.r#type() {
                MetricType::Counter => "counter",
                MetricType::Histogram => "histogram",
                _ => "gauge",
            },
            labels: of_series.swap_remove(0),
            help: family.help,
        };
        all.insert(family.name, metric);
    }
    all
}

#[test]
fn the_list_of_metrics_is_current() {
    let lines = metrics().into_iter().map(|(name, metric)| {
        let labels = metric.labels.join(",");
        format!("{name}{{{labels}}} {}\n", metric.kind)
    });
    assert_current("reference/metrics.txt", &lines.collect::<String>());
}

#[test]
fn the_page_of_metrics_is_current() {
    let rows: Vec<[String; 4]> = metrics()
        .into_iter()
        .map(|(name, metric)| {
            let labels = metric.labels.iter().map(|label| format!("`{label}`"));
            let labels = labels.collect::<Vec<_>>().join(", ");
            let help = metric.help.replace('|', "\\|");
            [format!("`{name}`"), metric.kind.to_owned(), labels, help]
        })
        .collect();
    let head = ["name", "type", "labels", "meaning"];
    assert_current("metrics.md", &(HEAD.to_owned() + &table(head, &rows)));
}

/// The names of families that stand in this room's source, before the encoder adds to them.
fn written() -> Vec<String> {
    let room = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/export");
    let files = std::fs::read_dir(room).expect("a room");
    let files = files.map(|file| file.expect("a file").path());
    let sources = files.filter_map(|file| std::fs::read_to_string(file).ok());
    let mut names = Vec::new();
    for source in sources {
        for call in ["counters(", "gauges(", "histograms(", "info(", "infos("] {
            let call = format!("out.{call}");
            let arguments = source.split(&*call).skip(1);
            let literals = arguments.filter_map(|text| text.trim_start().strip_prefix('"'));
            names.extend(literals.filter_map(|text| Some(text.split_once('"')?.0.to_owned())));
        }
    }
    names
}

/// A family without a series is left out, and the list would not miss it.
#[test]
fn every_family_in_the_source_is_in_the_list() {
    let (all, written) = (metrics(), written());
    for name in &written {
        let suffixes = ["", "_total", "_seconds", "_seconds_total", "_info"];
        let mut names = suffixes
            .iter()
            .flat_map(|suffix| ["lpm", "process"].map(|room| format!("{room}_{name}{suffix}")));
        let known = names.any(|name| all.contains_key(&name));
        assert!(
            known,
            "{name}: give it a value in passive::model::tests::everything"
        );
    }
    assert!(written.len() > 30, "names are found: {}", written.len());
}
