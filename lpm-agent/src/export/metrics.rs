//! The Prometheus metrics: one collector that reads the model at each scrape.
//!
//! The kernel counts the histograms, so they are handed to the encoder whole. A series that was
//! never measured is absent.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock},
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
    identity, info_metrics, interfaces, levels,
    methods::OfTcp,
    negotiate::Format,
    ports,
    process::{self, ProcessReader},
    queries, requests,
    text::{self, Dialect},
};
use crate::{
    kernel::own::MemoryLimit,
    passive::{Model, model::Labels, segments::Place},
};

/// A function that gives the run time of each kernel program so far. Empty: the kernel does not
/// measure it.
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
    /// Held while the model is read. So no reader sees counters go back, and many readers do not
    /// take more than one CPU.
    created: Mutex<Created>,
}

impl Metrics {
    /// Makes the metrics of a model.
    #[must_use]
    pub fn new(model: Arc<Model>, config_hash: String, program_times: ProgramTimes) -> Self {
        let config_hash = Arc::new(RwLock::new(config_hash));
        let mut registry = Registry::default();
        let own = registry.sub_registry_with_prefix("lpm");
        own.register_collector(Box::new(Reader {
            model,
            config_hash: Arc::clone(&config_hash),
            program_times,
            of_tcp: OfTcp::default(),
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

    /// Sets the time at which the maps were made, if they are older than these metrics.
    #[must_use]
    pub fn counting_since(mut self, maps: SystemTime) -> Self {
        self.created = Mutex::new(Created::new(maps, SystemTime::now()));
        self
    }

    /// Sets the hash of the configuration that is now in force.
    pub fn set_config_hash(&self, hash: String) {
        *self
            .config_hash
            .write()
            .unwrap_or_else(PoisonError::into_inner) = hash;
    }

    /// Encodes all metrics as they are now.
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
        // The time of a scrape is that of its oldest count.
        let now = SystemTime::now();
        let mut families = prometheus_protobuf::encode(&self.registry)?;
        created.stamp(&mut families, now);
        Ok(families)
    }
}

/// Reads the model at each scrape.
struct Reader {
    model: Arc<Model>,
    config_hash: Arc<RwLock<String>>,
    program_times: ProgramTimes,
    of_tcp: OfTcp,
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
        self.round_trips(&mut out)?;
        self.segments(&mut out)?;
        self.flows(&mut out, &counters)?;
        counters::encode(&counters, self.model.ids().names_refused(), &mut out)?;
        identity::encode(self.model.registry().status(), self.model.late(), &mut out)?;
        info_metrics::encode(self.model.registry(), self.model.ids().levels(), &mut out)?;
        ports::encode(&self.model, &mut out)?;
        self.agent(&mut out)
    }
}

impl Reader {
    fn round_trips(&self, out: &mut Families<'_>) -> fmt::Result {
        let found = self.model.rtt();
        // The counters are read after the rows. The counters of flows (`sweep`) are read before the
        // flows.
        let counters = self.model.counters().map_err(|_| fmt::Error)?;
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
            "TCP round-trip times, by how long the far end may have held the echo back",
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
            "Smallest round-trip time of each flow in a window (10 s), one observation per flow \
             and window",
            flow_rtt,
        )?;
        self.samples(out, &counters, found.samples)
    }

    /// Writes the samples by method. `all` is the number of samples in the histograms of TCP.
    fn samples(&self, out: &mut Families<'_>, counters: &[u64; COUNTERS], all: u64) -> fmt::Result {
        let of = |counter: Counter| counters[counter as usize];
        let (seq, handshake) = (of(Counter::SampledSeq), of(Counter::SampledHandshake));
        let of_tcp = self.of_tcp.page(all, seq, handshake);
        let [icmp, dns] = queries::encode(&self.model, out)?;
        let by_method = [
            (Method::Ts, of_tcp.ts),
            (Method::Seq, of_tcp.seq),
            (Method::Handshake, of_tcp.handshake),
            icmp,
            dns,
            requests::encode(&self.model, out)?,
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
            "TCP segments that were sent again or had been missing, at least in part; `leg` is the \
             leg that the sender's packets measure",
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
            "Round-trip time between two places that see the same flow: the difference of their \
             remote legs' minima, one observation per flow and window (10 s)",
            times,
        )?;
        out.counters(
            "segment_negative",
            "Differences below zero, which are not observed: the two minima are of different \
             packets",
            None,
            negative,
        )?;
        out.counters(
            "segment_ambiguous",
            "Flows in a window that share addresses and ports with another flow at the same kind \
             of vantage",
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
            "How full a kernel map is: entries of active flows, rows in use, queries that wait for \
             an answer, names (above 1: some have no room)",
            pressure.map(|(map, ratio)| (vec![("map", map.to_owned())], ratio)),
        )
    }

    fn agent(&self, out: &mut Families<'_>) -> fmt::Result {
        interfaces::encode(&self.model, out)?;
        let times = (self.program_times)()
            .into_iter()
            .map(|(program, time)| (vec![("program", program.to_owned())], time.as_secs_f64()));
        out.counters(
            "program_run",
            "Time spent in a kernel program, measured only while kernel.bpf_stats_enabled is 1",
            Some(&Unit::Seconds),
            times,
        )?;
        process::memory(MemoryLimit::read(), out)?;
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        out.info("build", "The agent's version", version)?;
        let hash = self
            .config_hash
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        out.info(
            "config_hash",
            "Hash of the configuration in effect",
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
mod reference;
#[cfg(test)]
mod tests;
