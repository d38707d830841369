//! Metric families, written through the encoder of the client library.

use std::fmt;

use prometheus_client::{
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, NoLabelSet,
    },
    metrics::MetricType,
    registry::Unit,
};

use super::histograms;
use crate::passive::Counts;

/// Names and values of a series' labels.
pub(super) type LabelSet = Vec<(&'static str, String)>;

/// Writes whole families. A family without a series is left out.
pub(super) struct Families<'a>(pub(super) DescriptorEncoder<'a>);

impl Families<'_> {
    /// Writes counters. The encoder adds `_total`.
    pub(super) fn counters<N: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        series: impl IntoIterator<Item = (LabelSet, N)>,
    ) -> fmt::Result {
        let mut series = series.into_iter().peekable();
        if series.peek().is_none() {
            return Ok(());
        }
        let mut family = self
            .0
            .encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (labels, value) in series {
            if labels.is_empty() {
                family.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
            } else {
                let mut metric = family.encode_family(&labels)?;
                metric.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
            }
        }
        Ok(())
    }

    /// Writes gauges.
    pub(super) fn gauges<N: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (LabelSet, N)>,
    ) -> fmt::Result {
        let mut series = series.into_iter().peekable();
        if series.peek().is_none() {
            return Ok(());
        }
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in series {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// Writes histograms of seconds.
    pub(super) fn histograms(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (LabelSet, Counts)>,
    ) -> fmt::Result {
        let mut series = series.into_iter().peekable();
        if series.peek().is_none() {
            return Ok(());
        }
        let unit = Some(&Unit::Seconds);
        let mut family = self
            .0
            .encode_descriptor(name, help, unit, MetricType::Histogram)?;
        for (labels, counts) in series {
            histograms::encode(&mut family, &labels, &counts)?;
        }
        Ok(())
    }

    /// Writes info metrics of one name. The encoder adds `_info`.
    pub(super) fn infos<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = L>,
    ) -> fmt::Result {
        let mut series = series.into_iter().peekable();
        if series.peek().is_none() {
            return Ok(());
        }
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Info)?;
        series.try_for_each(|labels| family.encode_info(&labels))
    }

    /// Writes one info metric. The encoder adds `_info`.
    pub(super) fn info(&mut self, name: &str, help: &str, labels: LabelSet) -> fmt::Result {
        self.infos(name, help, [labels])
    }
}
