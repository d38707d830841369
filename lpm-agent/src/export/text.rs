//! Prometheus text 0.0.4, which the client library does not write: made from the families of the
//! protobuf format, so that all formats show the same.

use std::{
    borrow::Cow,
    fmt::{Display, Write as _},
};

use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model::{
    LabelPair, Metric, MetricFamily, MetricType,
};

/// Writes families as text. Native histograms are left out: the format has none.
#[must_use]
pub fn encode(families: &[MetricFamily]) -> String {
    let mut out = String::new();
    for family in families {
        let kind = match family.r#type() {
            MetricType::Counter => "counter",
            MetricType::Gauge => "gauge",
            MetricType::Histogram => "histogram",
            MetricType::Summary => "summary",
            _ => "untyped",
        };
        let help = family.help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a string does not fail.
        let _ = writeln!(out, "# HELP {} {help}\n# TYPE {0} {kind}", family.name);
        for metric in &family.metric {
            encode_metric(&mut out, &family.name, metric);
        }
    }
    out
}

fn encode_metric(out: &mut String, name: &str, metric: &Metric) {
    let labels = labels(&metric.label);
    let plain = [
        metric.counter.as_ref().map(|counter| counter.value),
        metric.gauge.as_ref().map(|gauge| gauge.value),
        metric.untyped.as_ref().map(|untyped| untyped.value),
    ];
    for value in plain.into_iter().flatten() {
        line(out, (name, ""), &labels, &value);
    }
    let Some(histogram) = &metric.histogram else {
        return;
    };
    // The bound comes first, as the OpenMetrics encoder has it.
    let after = if labels.is_empty() { "" } else { "," };
    for bucket in &histogram.bucket {
        let bound = upper_bound(bucket.upper_bound);
        let count = bucket.cumulative_count;
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "{name}_bucket{{le=\"{bound}\"{after}{labels}}} {count}"
        );
    }
    line(out, (name, "_sum"), &labels, &histogram.sample_sum);
    line(out, (name, "_count"), &labels, &histogram.sample_count);
}

/// One line; `labels` are as [`labels`] writes them.
fn line(out: &mut String, (name, suffix): (&str, &str), labels: &str, value: &impl Display) {
    // As above.
    let _ = if labels.is_empty() {
        writeln!(out, "{name}{suffix} {value}")
    } else {
        writeln!(out, "{name}{suffix}{{{labels}}} {value}")
    };
}

/// Names and values, without the braces: a histogram has them on each of its lines.
fn labels(labels: &[LabelPair]) -> String {
    let mut out = String::new();
    for LabelPair { name, value } in labels {
        let comma = if out.is_empty() { "" } else { "," };
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

/// A bound as the OpenMetrics encoder writes it, so that `le` is the same in both formats.
fn upper_bound(value: f64) -> Cow<'static, str> {
    if value.is_infinite() {
        return "+Inf".into();
    }
    dtoa::Buffer::new().format_finite(value).to_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut out = String::new();
        let label = LabelPair {
            name: "a".to_owned(),
            value: "x\"\\\ny".to_owned(),
        };
        line(&mut out, ("m", "_total"), &labels(&[label]), &1);
        line(&mut out, ("m", "_total"), &labels(&[]), &1.5);
        assert_eq!(out, "m_total{a=\"x\\\"\\\\\\ny\"} 1\nm_total 1.5\n");
    }
}
