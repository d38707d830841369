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
        line(out, name, "", &metric.label, None, value);
    }
    let Some(histogram) = &metric.histogram else {
        return;
    };
    for bucket in &histogram.bucket {
        let bound = Some(bucket.upper_bound);
        line(
            out,
            name,
            "_bucket",
            &metric.label,
            bound,
            whole(bucket.cumulative_count),
        );
    }
    line(out, name, "_sum", &metric.label, None, histogram.sample_sum);
    line(
        out,
        name,
        "_count",
        &metric.label,
        None,
        whole(histogram.sample_count),
    );
}

fn line(
    out: &mut String,
    name: &str,
    suffix: &str,
    labels: &[LabelPair],
    bound: Option<f64>,
    value: f64,
) {
    let mut shown: Vec<String> = labels
        .iter()
        .map(|label| format!("{}=\"{}\"", label.name, escaped(&label.value)))
        .collect();
    shown.extend(bound.map(|bound| format!("le=\"{}\"", number(bound))));
    let labels = if shown.is_empty() {
        String::new()
    } else {
        format!("{{{}}}", shown.join(","))
    };
    // Writing to a string does not fail.
    let _ = writeln!(out, "{name}{suffix}{labels} {}", number(value));
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// A number as the OpenMetrics encoder writes it, so that `le` is the same in both formats.
fn number(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 {
            "+Inf".to_owned()
        } else {
            "-Inf".to_owned()
        };
    }
    if value.is_nan() {
        return "NaN".to_owned();
    }
    dtoa::Buffer::new().format_finite(value).to_owned()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "the format has floating-point numbers only"
)]
fn whole(value: u64) -> f64 {
    value as f64
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
        line(&mut out, "m", "_total", &[label], None, 1.0);
        assert_eq!(out, "m_total{a=\"x\\\"\\\\\\ny\"} 1.0\n");
    }
}
