//! Times of creation: since when counters and histograms count.
//!
//! A collector with these times can tell a counter that began anew from one that went on, and
//! counts what came before its first scrape. The time is one at which the series is known to have
//! been zero, and after which nothing is missing in it:
//!
//! - of what the kernel's maps hold, when the maps were made: pinned ones are older than the agent;
//! - of what the agent itself counts, when it started;
//! - of a series that was absent at the last scrape, or that has begun at zero since: that scrape.
//!
//! Series that others count (the kernel's counters of interfaces) have no such time, because nobody
//! knows when they began.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model::{
    Metric, MetricFamily,
};

/// The program that counts a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    /// The kernel programs, or the agent in memory that outlives it.
    Maps,
    /// The agent.
    Agent,
    /// Something other than LPM.
    Elsewhere,
}

/// Counters of each family, by the beginning of its name. The first that fits decides. A family
/// that is missing here has no time.
const BY: [(&str, Counted); 31] = [
    ("lpm_rtt_seconds", Counted::Maps),
    ("lpm_flow_rtt_seconds", Counted::Maps),
    ("lpm_workload_rtt_seconds", Counted::Maps),
    ("lpm_service_rtt_seconds", Counted::Maps),
    ("lpm_pod_rtt_seconds", Counted::Maps),
    ("lpm_node_rtt_seconds", Counted::Maps),
    ("lpm_zone_rtt_seconds", Counted::Maps),
    ("lpm_icmp_", Counted::Maps),
    ("lpm_dns_", Counted::Maps),
    ("lpm_request_seconds", Counted::Maps),
    ("lpm_request_events_total", Counted::Maps),
    ("lpm_vlan_joins_total", Counted::Maps),
    ("lpm_samples_total", Counted::Maps),
    ("lpm_retransmissions_total", Counted::Maps),
    ("lpm_packets_", Counted::Maps),
    ("lpm_bytes_total", Counted::Maps),
    ("lpm_flow_events_total", Counted::Maps),
    ("lpm_stamps_total", Counted::Maps),
    ("lpm_reordered_packets_total", Counted::Maps),
    ("lpm_unmatched_echoes_total", Counted::Maps),
    ("lpm_foreign_echoes_total", Counted::Maps),
    ("lpm_query_events_total", Counted::Maps),
    ("lpm_map_drops_total", Counted::Maps),
    ("lpm_parse_skipped_total", Counted::Maps),
    ("lpm_identity_", Counted::Agent),
    ("lpm_http_", Counted::Agent),
    ("lpm_segment_", Counted::Agent),
    ("lpm_probe_", Counted::Agent),
    ("lpm_reflector_", Counted::Agent),
    ("lpm_clock_", Counted::Agent),
    ("process_", Counted::Agent),
];

/// Last state of one series.
#[derive(Clone, Copy, Debug)]
struct Series {
    created: SystemTime,
    /// Value of the series, or its number of observations.
    value: f64,
    /// Number of the scrape at which the series was last present.
    look: u64,
}

/// Remembers the series of earlier scrapes.
#[derive(Debug)]
pub(super) struct Created {
    maps: SystemTime,
    agent: SystemTime,
    last_look: Option<SystemTime>,
    looks: u64,
    /// Series by a hash of name and labels. Two series that share a hash share a time that holds
    /// for either.
    series: HashMap<u64, Series>,
}

impl Created {
    /// Starts with the times at which the maps were made and at which the agent started.
    pub(super) fn new(maps: SystemTime, agent: SystemTime) -> Self {
        Self {
            maps,
            agent,
            last_look: None,
            looks: 0,
            series: HashMap::new(),
        }
    }

    /// Writes the times of creation into the families as they are at `now`.
    pub(super) fn stamp(&mut self, families: &mut [MetricFamily], now: SystemTime) {
        self.looks += 1;
        for family in families {
            let counted = BY.iter().find(|(name, _)| family.name.starts_with(name));
            let counted = counted.map_or(Counted::Elsewhere, |(_, counted)| *counted);
            for metric in &mut family.metric {
                let first = match counted {
                    Counted::Maps if is_the_agents(metric) => self.agent,
                    Counted::Maps => self.maps,
                    Counted::Agent => self.agent,
                    Counted::Elsewhere => continue,
                };
                self.metric(&family.name, metric, first);
            }
        }
        let looks = self.looks;
        self.series.retain(|_, series| series.look == looks);
        self.last_look = Some(now);
    }

    fn metric(&mut self, family: &str, metric: &mut Metric, first: SystemTime) {
        #[expect(clippy::cast_precision_loss, reason = "only compared with itself")]
        let value = match (&metric.counter, &metric.histogram) {
            (Some(counter), _) => counter.value,
            (None, Some(histogram)) => histogram.sample_count as f64,
            (None, None) => return,
        };
        let anew = self.last_look.unwrap_or(first);
        let series = self.series.entry(hash(family, metric)).or_insert(Series {
            created: anew,
            value,
            look: 0,
        });
        if value < series.value {
            series.created = anew;
        }
        (series.value, series.look) = (value, self.looks);
        let since = series.created.duration_since(UNIX_EPOCH);
        let since = since.unwrap_or_default();
        let times = [
            (metric.counter.as_mut()).map(|counter| &mut counter.start_timestamp),
            (metric.histogram.as_mut()).map(|histogram| &mut histogram.start_timestamp),
        ];
        for time in times.into_iter().flatten() {
            let time = time.get_or_insert_default();
            time.seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
            time.nanos = i32::try_from(since.subsec_nanos()).unwrap_or(0);
        }
    }
}

/// True for names that find no room: the agent counts them, in a family of the kernel programs.
fn is_the_agents(metric: &Metric) -> bool {
    let mut labels = metric.label.iter();
    labels.any(|label| label.name == "map" && label.value == "names")
}

fn hash(family: &str, metric: &Metric) -> u64 {
    let mut hasher = DefaultHasher::new();
    family.hash(&mut hasher);
    for label in &metric.label {
        (&label.name, &label.value).hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model::{
        Counter, LabelPair,
    };

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn family(name: &str, series: &[(&str, f64)]) -> MetricFamily {
        let metric = series.iter().map(|(label, value)| Metric {
            label: vec![LabelPair {
                name: "a".to_owned(),
                value: (*label).to_owned(),
            }],
            counter: Some(Counter {
                value: *value,
                ..Counter::default()
            }),
            ..Metric::default()
        });
        MetricFamily {
            name: name.to_owned(),
            metric: metric.collect(),
            ..MetricFamily::default()
        }
    }

    /// The times of creation that a scrape of these series gives.
    fn times(created: &mut Created, now: u64, name: &str, series: &[(&str, f64)]) -> Vec<i64> {
        let mut families = [family(name, series)];
        created.stamp(&mut families, at(now));
        let [family] = families;
        let counters = family
            .metric
            .into_iter()
            .filter_map(|metric| metric.counter);
        counters
            .filter_map(|counter| Some(counter.start_timestamp?.seconds))
            .collect()
    }

    #[test]
    fn a_series_keeps_its_time_until_it_begins_anew() {
        let mut created = Created::new(at(10), at(20));
        let mut look = |now, series: &[(&str, f64)]| {
            times(&mut created, now, "lpm_retransmissions_total", series)
        };
        assert_eq!(look(100, &[("x", 5.0)]), [10], "older than the agent");
        assert_eq!(look(200, &[("x", 5.0), ("y", 1.0)]), [10, 100], "y is new");
        assert_eq!(
            look(300, &[("x", 2.0), ("y", 1.0)]),
            [200, 100],
            "x was reset"
        );
        assert_eq!(look(400, &[("x", 2.0)]), [200]);
        assert_eq!(
            look(500, &[("x", 3.0), ("y", 9.0)]),
            [200, 400],
            "y was gone"
        );
    }

    #[test]
    fn who_counts_says_since_when() {
        let mut created = Created::new(at(10), at(20));
        let mut of = |name| {
            created.last_look = None;
            times(&mut created, 100, name, &[("x", 1.0)])
        };
        assert_eq!(of("lpm_stamps_total"), [10]);
        assert_eq!(of("lpm_identity_errors_total"), [20]);
        assert_eq!(of("process_cpu_seconds_total"), [20]);
        assert!(of("lpm_port_bytes_total").is_empty());
        assert!(of("lpm_program_run_seconds_total").is_empty());
        assert!(of("somebody_elses_total").is_empty());
    }
}
