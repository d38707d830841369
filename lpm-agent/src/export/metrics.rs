//! The metrics: one collector that reads the model at each scrape.
//!
//! Histograms are counted elsewhere (in the kernel), so they are handed to the encoder whole.
//! What was never measured has no series.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use lpm_common::{
    counter::{COUNTERS, Counter},
    layout::Method,
};
use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder,
        prometheus_protobuf::{self, prometheus_data_model::MetricFamily},
    },
    registry::{Registry, Unit},
};
use prost::Message as _;

use super::{
    counters,
    created::Created,
    families::{Families, LabelSet},
    identity, infos, levels,
    negotiate::Format,
    ports,
    process::{self, ProcessReader},
    questions,
    text::{self, Dialect},
};
use crate::passive::{Model, model::Labels, segments::Place};

/// Gives the run time of each kernel program so far; empty: the kernel does not measure it.
pub type ProgramTimes = Box<dyn Fn() -> Vec<(&'static str, Duration)> + Send + Sync>;

/// Why metrics could not be written.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The encoder failed, or the kernel's maps could not be read.
    #[error("the metrics cannot be written: the kernel's maps cannot be read, or {0}")]
    Format(#[from] fmt::Error),
    /// The protobuf encoder failed.
    #[error("the metrics cannot be written as protobuf: {0}")]
    Protobuf(#[from] prost::EncodeError),
}

/// The metrics of one model, in each format.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    config_hash: Arc<RwLock<String>>,
    /// Held while the model is read, so that no reader sees counters go back, and many readers do
    /// not take more than one CPU.
    created: Mutex<Created>,
}

impl Metrics {
    /// Metrics of a model.
    #[must_use]
    pub fn new(model: Arc<Model>, config_hash: String, program_times: ProgramTimes) -> Self {
        let config_hash = Arc::new(RwLock::new(config_hash));
        let mut registry = Registry::default();
        let own = registry.sub_registry_with_prefix("lpm");
        own.register_collector(Box::new(Reader {
            model,
            config_hash: Arc::clone(&config_hash),
            program_times,
            timed: AtomicU64::new(0),
        }));
        let process = registry.sub_registry_with_prefix("process");
        process.register_collector(Box::new(ProcessReader));
        let now = SystemTime::now();
        Self {
            registry,
            config_hash,
            created: Mutex::new(Created::new(now, now)),
        }
    }

    /// With the time at which the maps were made, if they are older than these metrics.
    #[must_use]
    pub fn counting_since(mut self, maps: SystemTime) -> Self {
        self.created = Mutex::new(Created::new(maps, SystemTime::now()));
        self
    }

    /// Another configuration is in force.
    pub fn set_config_hash(&self, hash: String) {
        *self
            .config_hash
            .write()
            .unwrap_or_else(PoisonError::into_inner) = hash;
    }

    /// All metrics as they are now.
    pub fn encode(&self, format: Format) -> Result<Vec<u8>, MetricsError> {
        let families = self.families()?;
        let dialect = match format {
            Format::Protobuf => {
                let mut out = Vec::new();
                for family in families {
                    family.encode_length_delimited(&mut out)?;
                }
                return Ok(out);
            }
            Format::OpenMetrics => Dialect::OpenMetrics,
            Format::Text => Dialect::Prometheus,
        };
        Ok(text::encode(&families, dialect).into_bytes())
    }

    fn families(&self) -> Result<Vec<MetricFamily>, fmt::Error> {
        let mut created = self.created.lock().unwrap_or_else(PoisonError::into_inner);
        // A look is as old as its oldest count.
        let now = SystemTime::now();
        let mut families = prometheus_protobuf::encode(&self.registry)?;
        created.stamp(&mut families, now);
        Ok(families)
    }
}

/// Reads the model whenever somebody scrapes.
struct Reader {
    model: Arc<Model>,
    config_hash: Arc<RwLock<String>>,
    program_times: ProgramTimes,
    /// The most samples by timestamps that were ever shown.
    timed: AtomicU64,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Collector for Reader {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut out = Families(encoder);
        // An error here means that the map is gone, and then no counter is known.
        let counters = self.model.counters().map_err(|_| fmt::Error)?;
        self.round_trips(&mut out, &counters)?;
        self.segments(&mut out)?;
        self.flows(&mut out, &counters)?;
        counters::encode(&counters, self.model.directory().names_refused(), &mut out)?;
        identity::encode(self.model.directory().status(), self.model.late(), &mut out)?;
        infos::encode(self.model.directory(), &mut out)?;
        ports::encode(&self.model, &mut out)?;
        self.agent(&mut out)
    }
}

impl Reader {
    fn round_trips(&self, out: &mut Families<'_>, counters: &[u64; COUNTERS]) -> fmt::Result {
        let found = self.model.rtt();
        let rtt = found
            .by_labels
            .into_iter()
            .map(|((labels, leg, echo), counts)| {
                let mut set = label_set(&labels);
                set.push(("leg", leg.as_str().to_owned()));
                set.push(("echo", echo.as_str().to_owned()));
                (set, counts)
            });
        out.histograms(
            "rtt",
            "Round trips of TCP, by how long the far end may have sat on the echo",
            rtt,
        )?;
        levels::encode(found.levelled, out)?;
        let flow_rtt = self
            .model
            .flow_rtt()
            .into_iter()
            .map(|((labels, leg), counts)| {
                let mut set = label_set(&labels);
                set.push(("leg", leg.as_str().to_owned()));
                (set, counts)
            });
        out.histograms(
            "flow_rtt",
            "Each flow's smallest round trip per window (10 s), one observation each",
            flow_rtt,
        )?;
        self.samples(out, counters, found.samples)
    }

    /// What the histograms of TCP hold beyond the samples of the other methods is `ts`'s.
    fn samples(&self, out: &mut Families<'_>, counters: &[u64; COUNTERS], all: u64) -> fmt::Result {
        let of = |counter: Counter| counters[counter as usize];
        let (seq, handshake) = (of(Counter::SampledSeq), of(Counter::SampledHandshake));
        let [icmp, dns] = questions::encode(&self.model, out)?;
        // Read one after the other, so samples of the other methods that came in between are among
        // these until the next look; a counter never goes back.
        let timed = all.saturating_sub(seq + handshake);
        let timed = self.timed.fetch_max(timed, Ordering::Relaxed).max(timed);
        let by_method = [
            (Method::Ts, timed),
            (Method::Seq, seq),
            (Method::Handshake, handshake),
            icmp,
            dns,
        ];
        out.counters(
            "samples",
            "Round trips measured, at all vantages",
            None,
            by_method
                .into_iter()
                // A method that is off measures nothing, which is not 0.
                .filter(|(method, count)| *method == Method::Ts || *count > 0)
                .map(|(method, count)| (vec![("method", method.as_str().to_owned())], count)),
        )?;
        let retransmitted = self.model.retransmitted().into_iter();
        out.counters(
            "retransmissions",
            "TCP segments any part of which was sent before, or was missing before; `leg` is the \
             one that the sender's packets measure",
            None,
            retransmitted.map(|((labels, leg), count)| {
                let mut set = label_set(&labels);
                set.push(("leg", leg.as_str().to_owned()));
                (set, count)
            }),
        )
    }

    fn segments(&self, out: &mut Families<'_>) -> fmt::Result {
        let labels = |from: Place, to: Place| {
            vec![
                ("from", from.as_str().to_owned()),
                ("to", to.as_str().to_owned()),
            ]
        };
        let (times, negative, ambiguous) = self.model.segments(|segments| {
            let times = segments.times();
            let times = times.map(|(from, to, counts)| (labels(from, to), counts.clone()));
            let negative = segments.negative();
            let negative = negative.map(|(from, to, count)| (labels(from, to), count));
            let (times, negative): (Vec<_>, Vec<_>) = (times.collect(), negative.collect());
            (times, negative, segments.ambiguous())
        });
        out.histograms(
            "segment",
            "Round trip between two places that see a flow, one observation per flow and window \
             (10 s): the difference of their remote legs' minima",
            times,
        )?;
        out.counters(
            "segment_negative",
            "Differences below zero, which say nothing: the minima are of different packets",
            None,
            negative,
        )?;
        out.counters(
            "segment_ambiguous",
            "Flows, per window, that share addresses and ports at one kind of vantage",
            None,
            [(vec![], ambiguous)],
        )
    }

    fn flows(&self, out: &mut Families<'_>, counters: &[u64; COUNTERS]) -> fmt::Result {
        // As with the counters: without its clock the map is gone.
        let clock = self.model.clock().map_err(|_| fmt::Error)?;
        let sweep = self.model.sweep(&clock, counters);
        out.counters(
            "packets",
            "TCP packets on the wire, at all vantages (a GSO packet counts each segment)",
            None,
            [(vec![], sweep.packets)],
        )?;
        out.counters(
            "bytes",
            "Bytes on the wire, at all vantages",
            None,
            [(vec![], sweep.bytes)],
        )?;
        let total = sweep.active.values().sum();
        let by_vantage = sweep
            .active
            .into_iter()
            .map(|(vantage, flows)| (vec![("vantage", vantage.as_str().to_owned())], flows));
        out.gauges(
            "active_flows",
            "Flows seen within the idle time and not closed, at each vantage",
            by_vantage.map(|(labels, flows)| (labels, i64::try_from(flows).unwrap_or(i64::MAX))),
        )?;
        let pressure = self.model.pressure(total);
        out.gauges(
            "map_pressure_ratio",
            "How full a kernel map is: entries of active flows, rows taken, questions that wait, names (above 1: some have no room)",
            pressure.map(|(map, ratio)| (vec![("map", map.to_owned())], ratio)),
        )
    }

    fn agent(&self, out: &mut Families<'_>) -> fmt::Result {
        let links = self.model.links().into_values().map(|link| {
            let labels = vec![
                ("interface", link.name),
                ("vantage", link.vantage.as_str().to_owned()),
            ];
            (labels, 1_i64)
        });
        out.gauges(
            "interface_attached",
            "1 for each interface that is watched",
            links,
        )?;
        let known = self.model.one_sided();
        let one_sided = self.model.links().into_iter().filter_map(|(index, link)| {
            let labels = vec![("interface", link.name)];
            Some((labels, i64::from(*known.get(&index)?)))
        });
        out.gauges(
            "interface_one_sided",
            "1 for each interface that carries packets of one direction only, a pod's because its CNI redirects past it",
            one_sided,
        )?;
        let times = (self.program_times)()
            .into_iter()
            .map(|(program, time)| (vec![("program", program.to_owned())], time.as_secs_f64()));
        out.counters(
            "program_run",
            "Time spent in a kernel program, measured only while kernel.bpf_stats_enabled is 1",
            Some(&Unit::Seconds),
            times,
        )?;
        process::memory(out)?;
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        out.info("build", "The agent's version", version)?;
        let hash = self
            .config_hash
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        out.info(
            "config_hash",
            "Changes with the configuration",
            vec![("hash", hash)],
        )
    }
}

pub(super) fn label_set(labels: &Labels) -> LabelSet {
    vec![
        ("namespace", labels.namespace.to_string()),
        ("peer_namespace", labels.peer_namespace.to_string()),
        ("peer_kind", labels.peer_kind.as_str().to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use lpm_common::layout::{Echo, Leg, NameId, NameValue, PairKey, PeerKind, Vantage};

    use super::*;
    use crate::passive::model::tests::{model, observe, tables};

    fn metrics() -> Metrics {
        let name = |namespace| NameValue::new(NameId::new(namespace, 0), PeerKind::Pod);
        let tables = tables(&[PairKey::new(Vantage::Pod as u8, name(1), name(2))]);
        observe(&tables, 1, Leg::Remote, Echo::Data as usize, 30_000_000);
        Metrics::new(
            Arc::new(model(tables)),
            "0123".to_owned(),
            Box::new(Vec::new),
        )
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
            let agents = ["process_", "lpm_segment_"];
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
        assert_eq!(rtt.map(count), Some(1));
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
        let names = crate::identity::Names::parse(&names.join("\n"), "names.yaml".as_ref());
        model
            .directory()
            .update(model.tables(), &names.expect("names"), &[])
            .expect("update");
        let metrics = Metrics::new(Arc::new(model), String::new(), Box::new(Vec::new));
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
        let times: ProgramTimes =
            Box::new(|| vec![("lpm_from_local", Duration::from_millis(1500))]);
        let metrics = Metrics::new(Arc::new(model(tables(&[]))), String::new(), times);
        let plain = text(&metrics, Format::Text);
        let wanted = "lpm_program_run_seconds_total{program=\"lpm_from_local\"} 1.5";
        assert!(plain.contains(wanted), "{plain}");
    }
}
