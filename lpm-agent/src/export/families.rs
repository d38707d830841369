//! Metric families as collectors hand them to a [`Sink`].

use std::fmt;

use super::sink::{Family, InfoLabels, LabelSet, Sink, Unit, Value};
use crate::passive::Counts;

/// Hands whole families to a sink, under one prefix. A family without a series is left out.
pub struct Families<'a> {
    prefix: &'a str,
    sink: &'a mut dyn Sink,
}

impl fmt::Debug for Families<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut families = f.debug_struct("Families");
        families
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl<'a> Families<'a> {
    /// Families whose names begin with the prefix and `_`.
    pub fn new(prefix: &'a str, sink: &'a mut dyn Sink) -> Self {
        Self { prefix, sink }
    }

    /// Hands over a family of counters.
    ///
    /// # Errors
    /// The sink cannot write it.
    pub fn counters<V: Into<Value>>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        series: impl IntoIterator<Item = (LabelSet, V)>,
    ) -> fmt::Result {
        let series = series.into_iter();
        let series = series.map(|(labels, value)| (labels, value.into()));
        let about = about(name, help, unit);
        self.family(about, series, |sink, family, series| {
            sink.counter(family, series)
        })
    }

    /// Hands over a family of gauges.
    ///
    /// # Errors
    /// The sink cannot write it.
    pub fn gauges<V: Into<Value>>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (LabelSet, V)>,
    ) -> fmt::Result {
        let series = series.into_iter();
        let series = series.map(|(labels, value)| (labels, value.into()));
        let about = about(name, help, None);
        self.family(about, series, |sink, family, series| {
            sink.gauge(family, series)
        })
    }

    /// Hands over a family of histograms of seconds.
    ///
    /// # Errors
    /// The sink cannot write it.
    pub fn histograms(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (LabelSet, Counts)>,
    ) -> fmt::Result {
        let about = about(name, help, Some(Unit::Seconds));
        self.family(about, series, |sink, family, series| {
            sink.histogram(family, series)
        })
    }

    /// Hands over a family of histograms of seconds that has series for each of many peers: in the
    /// classic form with fewer buckets.
    ///
    /// # Errors
    /// The sink cannot write it.
    pub fn coarse_histograms(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (LabelSet, Counts)>,
    ) -> fmt::Result {
        let about = Family {
            is_coarse: true,
            ..about(name, help, Some(Unit::Seconds))
        };
        self.family(about, series, |sink, family, series| {
            sink.histogram(family, series)
        })
    }

    /// Hands over a family of infos.
    ///
    /// # Errors
    /// The sink cannot write it.
    pub fn infos(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = InfoLabels>,
    ) -> fmt::Result {
        let about = about(name, help, None);
        self.family(about, series, |sink, family, series| {
            sink.info(family, series)
        })
    }

    /// Hands over a family that is one info.
    ///
    /// # Errors
    /// The sink cannot write it.
    pub fn info(&mut self, name: &str, help: &str, labels: LabelSet) -> fmt::Result {
        let labels = labels.into_iter();
        let labels = labels.map(|(name, value)| (name.into(), value.into()));
        self.infos(name, help, [labels.collect::<InfoLabels>()])
    }

    /// Hands over a family unless it has no series. Its name is still without the prefix.
    fn family<T>(
        &mut self,
        about: Family<'_>,
        series: impl IntoIterator<Item = T>,
        write: impl FnOnce(&mut dyn Sink, &Family<'_>, &mut dyn Iterator<Item = T>) -> fmt::Result,
    ) -> fmt::Result {
        let mut series = series.into_iter().peekable();
        if series.peek().is_none() {
            return Ok(());
        }
        let name = &format!("{}_{}", self.prefix, about.name);
        write(self.sink, &Family { name, ..about }, &mut series)
    }
}

/// The description of a family whose classic buckets are as usual.
fn about<'a>(name: &'a str, help: &'a str, unit: Option<Unit>) -> Family<'a> {
    Family {
        name,
        help,
        unit,
        is_coarse: false,
    }
}
