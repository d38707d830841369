//! Writes the text formats from the families of the protobuf format, so that all formats show the
//! same.
//!
//! The client library does not write Prometheus text 0.0.4. It writes OpenMetrics 1.0.0 with bounds
//! in a form of its own and without times of creation. So both are written here.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt::{Display, Write as _},
};

use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model::{
    Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use super::number;

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Prometheus 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

/// Writes families as text. Native histograms are left out: the formats have none.
#[must_use]
pub fn encode(families: &[MetricFamily], dialect: Dialect) -> String {
    let mut writer = Writer {
        out: String::new(),
        dialect,
        bounds: HashMap::new(),
    };
    for family in families {
        writer.family(family);
    }
    if dialect == Dialect::OpenMetrics {
        writer.out.push_str("# EOF\n");
    }
    writer.out
}

/// A text that grows.
struct Writer {
    out: String,
    dialect: Dialect,
    /// Bounds as text, by the bits of the number. All histograms share them.
    bounds: HashMap<u64, String>,
}

impl Writer {
    fn family(&mut self, family: &MetricFamily) {
        let open = self.dialect == Dialect::OpenMetrics;
        let (mut name, mut kind) = match family.r#type() {
            MetricType::Counter => (&*family.name, "counter"),
            MetricType::Gauge => (&*family.name, "gauge"),
            MetricType::Histogram => (&*family.name, "histogram"),
            MetricType::Summary => (&*family.name, "summary"),
            _ if open => (&*family.name, "unknown"),
            _ => (&*family.name, "untyped"),
        };
        // OpenMetrics names families without the suffixes of their samples.
        let stem = match kind {
            "counter" => name.strip_suffix("_total").map(|stem| (stem, "counter")),
            "gauge" => name.strip_suffix("_info").map(|stem| (stem, "info")),
            _ => None,
        };
        if let (true, Some(stem)) = (open, stem) {
            (name, kind) = stem;
        }
        let mut help = family.help.replace('\\', "\\\\").replace('\n', "\\n");
        if open {
            help = help.replace('"', "\\\"");
        }
        // Writing to a string does not fail.
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        if open && !family.unit.is_empty() {
            let _ = writeln!(self.out, "# UNIT {name} {}", family.unit);
        }
        for metric in &family.metric {
            self.metric(&family.name, name, metric);
        }
    }

    /// The samples of one metric; `stem` is the family's name without a suffix.
    fn metric(&mut self, name: &str, stem: &str, metric: &Metric) {
        let labels = labels(&metric.label);
        let plain = [
            metric.counter.as_ref().map(|counter| counter.value),
            metric.gauge.as_ref().map(|gauge| gauge.value),
            metric.untyped.as_ref().map(|untyped| untyped.value),
        ];
        for value in plain.into_iter().flatten() {
            self.line(name, "", &labels, &Value(value));
        }
        let mut created = metric
            .counter
            .as_ref()
            .and_then(|counter| counter.start_timestamp.as_ref())
            .map(|time| (time.seconds, time.nanos));
        if let Some(histogram) = &metric.histogram {
            self.histogram(name, &labels, histogram);
            let time = histogram.start_timestamp.as_ref();
            created = time.map(|time| (time.seconds, time.nanos));
        }
        if let (Dialect::OpenMetrics, Some((seconds, nanos))) = (self.dialect, created) {
            let millis = nanos / 1_000_000;
            let time = format_args!("{seconds}.{millis:03}");
            self.line(stem, "_created", &labels, &time);
        }
    }

    fn histogram(&mut self, name: &str, labels: &str, histogram: &Histogram) {
        let after = if labels.is_empty() { "" } else { "," };
        for bucket in &histogram.bucket {
            let bits = bucket.upper_bound.to_bits();
            let written = self.bounds.entry(bits);
            let bound = written.or_insert_with(|| number::bound(bucket.upper_bound));
            let count = bucket.cumulative_count;
            // Writing to a string does not fail.
            let _ = writeln!(
                self.out,
                "{name}_bucket{{le=\"{bound}\"{after}{labels}}} {count}"
            );
        }
        self.line(name, "_sum", labels, &Value(histogram.sample_sum));
        self.line(name, "_count", labels, &histogram.sample_count);
    }

    /// Writes one line. `labels` is the result of [`labels`].
    fn line(&mut self, name: &str, suffix: &str, labels: &str, value: &dyn Display) {
        // Writing to a string does not fail.
        let _ = if labels.is_empty() {
            writeln!(self.out, "{name}{suffix} {value}")
        } else {
            writeln!(self.out, "{name}{suffix}{{{labels}}} {value}")
        };
    }
}

/// A value of a sample. A value that is not finite is written as the formats require.
struct Value(f64);

impl Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_finite() {
            self.0.fmt(f)
        } else {
            f.write_str(&number::bound(self.0))
        }
    }
}

/// Names and values of labels, without the braces: a histogram has them on each of its lines.
fn labels(labels: &[LabelPair]) -> String {
    let mut out = String::new();
    for LabelPair { name, value } in labels {
        let comma = if out.is_empty() { "" } else { "," };
        // Writing to a string does not fail.
        let _ = write!(out, "{comma}{name}=\"{}\"", escaped(value));
    }
    out
}

fn escaped(value: &str) -> Cow<'_, str> {
    if !value.contains(['\\', '"', '\n']) {
        return value.into();
    }
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    value.replace('\n', "\\n").into()
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model::{
        Bucket, Counter, Gauge,
    };

    use super::*;

    fn family(name: &str, kind: MetricType, metric: Metric) -> MetricFamily {
        MetricFamily {
            name: name.to_owned(),
            help: "What \"it\" \\ is".to_owned(),
            r#type: kind as i32,
            metric: vec![metric],
            ..MetricFamily::default()
        }
    }

    fn counter(label: &[(&str, &str)]) -> Metric {
        let mut counter = Counter {
            value: 1.5,
            ..Counter::default()
        };
        let time = counter.start_timestamp.get_or_insert_default();
        (time.seconds, time.nanos) = (12, 34_567_890);
        Metric {
            label: (label.iter())
                .map(|(name, value)| LabelPair {
                    name: (*name).to_owned(),
                    value: (*value).to_owned(),
                })
                .collect(),
            counter: Some(counter),
            ..Metric::default()
        }
    }

    #[test]
    fn counters_in_both_dialects() {
        let metric = counter(&[("a", "x\"\\\ny")]);
        let families = [family("m_total", MetricType::Counter, metric)];
        assert_eq!(
            encode(&families, Dialect::Prometheus),
            "# HELP m_total What \"it\" \\\\ is\n# TYPE m_total counter\nm_total{a=\"x\\\"\\\\\\ny\"} 1.5\n"
        );
        assert_eq!(
            encode(&families, Dialect::OpenMetrics),
            "# HELP m What \\\"it\\\" \\\\ is\n# TYPE m counter\nm_total{a=\"x\\\"\\\\\\ny\"} 1.5\nm_created{a=\"x\\\"\\\\\\ny\"} 12.034\n# EOF\n"
        );
        let bare = [family("m_total", MetricType::Counter, counter(&[]))];
        assert!(encode(&bare, Dialect::Prometheus).ends_with("\nm_total 1.5\n"));
    }

    #[test]
    fn informations_are_gauges_to_prometheus() {
        let gauge = Some(Gauge { value: 1.0 });
        let metric = Metric {
            gauge,
            ..Metric::default()
        };
        let families = [family("m_info", MetricType::Gauge, metric)];
        let plain = encode(&families, Dialect::Prometheus);
        assert!(
            plain.ends_with("# TYPE m_info gauge\nm_info 1\n"),
            "{plain}"
        );
        let open = encode(&families, Dialect::OpenMetrics);
        assert!(open.ends_with("# TYPE m info\nm_info 1\n# EOF\n"), "{open}");
    }

    #[test]
    fn histograms_without_a_time_of_creation_have_none() {
        let bucket = |upper_bound| Bucket {
            cumulative_count: 1,
            upper_bound,
            ..Bucket::default()
        };
        let histogram = Histogram {
            sample_count: 1,
            sample_sum: 2e-5,
            bucket: vec![bucket(3.051_757_812_5e-5), bucket(f64::INFINITY)],
            ..Histogram::default()
        };
        let metric = Metric {
            histogram: Some(histogram),
            ..Metric::default()
        };
        let mut families = [family("h_seconds", MetricType::Histogram, metric)];
        families[0].unit = "seconds".to_owned();
        let lines = "h_seconds_bucket{le=\"3.0517578125e-05\"} 1\nh_seconds_bucket{le=\"+Inf\"} 1\nh_seconds_sum 0.00002\nh_seconds_count 1\n";
        let plain = encode(&families, Dialect::Prometheus);
        assert!(plain.ends_with(lines), "{plain}");
        let open = encode(&families, Dialect::OpenMetrics);
        assert!(
            open.ends_with(&format!("# UNIT h_seconds seconds\n{lines}# EOF\n")),
            "{open}"
        );
    }

    #[test]
    fn values_without_an_end_are_written_as_prometheus_reads_them() {
        assert_eq!(Value(f64::INFINITY).to_string(), "+Inf");
        assert_eq!(Value(f64::NAN).to_string(), "NaN");
        assert_eq!(Value(3.0).to_string(), "3");
    }
}
