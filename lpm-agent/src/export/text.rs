//! Prometheus text 0.0.4, which the client library does not write: made from the families of the
//! protobuf format, so that all formats show the same.

use std::fmt::Write as _;

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
    let plain = [
        metric.counter.as_ref().map(|counter| counter.value),
        metric.gauge.as_ref().map(|gauge| gauge.value),
        metric.untyped.as_ref().map(|untyped| untyped.value),
    ];
    for value in plain.into_iter().flatten() {
        line(out, name, &metric.label, None, &value.to_string());
    }
    let Some(histogram) = &metric.histogram else {
        return;
    };
    let named = |suffix| format!("{name}_{suffix}");
    for bucket in &histogram.bucket {
        let count = bucket.cumulative_count.to_string();
        line(
            out,
            &named("bucket"),
            &metric.label,
            Some(bucket.upper_bound),
            &count,
        );
    }
    line(
        out,
        &named("sum"),
        &metric.label,
        None,
        &histogram.sample_sum.to_string(),
    );
    line(
        out,
        &named("count"),
        &metric.label,
        None,
        &histogram.sample_count.to_string(),
    );
}

/// One line; `bound` is the label `le` of a bucket.
fn line(out: &mut String, name: &str, labels: &[LabelPair], bound: Option<f64>, value: &str) {
    // First, as the OpenMetrics encoder has it.
    let bound = bound.map(|bound| format!("le=\"{}\"", upper_bound(bound)));
    let labels = labels
        .iter()
        .map(|label| format!("{}=\"{}\"", label.name, escaped(&label.value)));
    let shown: Vec<String> = bound.into_iter().chain(labels).collect();
    let labels = if shown.is_empty() {
        String::new()
    } else {
        format!("{{{}}}", shown.join(","))
    };
    // Writing to a string does not fail.
    let _ = writeln!(out, "{name}{labels} {value}");
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// A bound as the OpenMetrics encoder writes it, so that `le` is the same in both formats.
fn upper_bound(value: f64) -> String {
    if value.is_infinite() {
        return "+Inf".to_owned();
    }
    dtoa::Buffer::new().format_finite(value).to_owned()
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
        line(&mut out, "m_total", &[label], None, "1");
        assert_eq!(out, "m_total{a=\"x\\\"\\\\\\ny\"} 1\n");
    }
}
