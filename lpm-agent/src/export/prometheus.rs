//! Prometheus' encoder as a [`Sink`].

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry,
};

use super::{
    histograms,
    sink::{Family, InfoLabels, Series, Sink, Unit, Value},
};
use crate::passive::Counts;

/// Writes families for Prometheus. The encoder adds units, `_total` and `_info` to names.
pub(super) struct Prometheus<'a>(pub(super) DescriptorEncoder<'a>);

impl Prometheus<'_> {
    fn begin<'s>(
        &'s mut self,
        family: &'s Family<'_>,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        let unit = family.unit.map(|unit| match unit {
            Unit::Seconds => &registry::Unit::Seconds,
        });
        self.0
            .encode_descriptor(family.name, family.help, unit, kind)
    }
}

impl Sink for Prometheus<'_> {
    fn counter(&mut self, family: &Family<'_>, series: Series<'_, Value>) -> fmt::Result {
        let mut encoder = self.begin(family, MetricType::Counter)?;
        for (labels, value) in series {
            let mut metric = encoder.encode_family(&labels)?;
            match value {
                Value::Unsigned(value) => {
                    metric.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
                }
                Value::Float(value) => {
                    metric.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
                }
            }
        }
        Ok(())
    }

    fn gauge(&mut self, family: &Family<'_>, series: Series<'_, Value>) -> fmt::Result {
        let mut encoder = self.begin(family, MetricType::Gauge)?;
        for (labels, value) in series {
            let mut metric = encoder.encode_family(&labels)?;
            match value {
                Value::Unsigned(value) => metric.encode_gauge(&value)?,
                Value::Float(value) => metric.encode_gauge(&value)?,
            }
        }
        Ok(())
    }

    fn histogram(&mut self, family: &Family<'_>, series: Series<'_, Counts>) -> fmt::Result {
        let mut encoder = self.begin(family, MetricType::Histogram)?;
        for (labels, counts) in series {
            histograms::encode(&mut encoder, &labels, &counts, family.is_coarse)?;
        }
        Ok(())
    }

    fn info(
        &mut self,
        family: &Family<'_>,
        series: &mut dyn Iterator<Item = InfoLabels>,
    ) -> fmt::Result {
        let mut encoder = self.begin(family, MetricType::Info)?;
        for labels in series {
            encoder.encode_info(&labels)?;
        }
        Ok(())
    }
}
