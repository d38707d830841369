//! The sinks of metrics. A sink knows one format and no metric. A source knows its metrics and no
//! format.

use std::{fmt, sync::Arc};

use crate::passive::Counts;

/// Names and values of a series' labels, in the order in which they are written.
pub type LabelSet = Vec<(&'static str, String)>;

/// Names and values of an info's labels; users choose some of the names.
pub type InfoLabels = Vec<(Arc<str>, Arc<str>)>;

/// The unit of a family's values, if its name does not contain it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
}

/// A counter's or a gauge's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A whole number, not negative.
    Unsigned(u64),
    /// A number with a fraction.
    Float(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Unsigned(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

/// The description that all series of a family share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family<'a> {
    /// The name with its prefix (`lpm_rtt`), without the parts that a format adds: the unit, `_total`,
    /// `_info`.
    pub name: &'a str,
    /// The meaning of the values, for people.
    pub help: &'a str,
    /// The unit of the values.
    pub unit: Option<Unit>,
    /// Whether few classic buckets do: the family has series for each of many peers.
    pub is_coarse: bool,
}

/// The series of a family, each with its labels.
pub type Series<'a, T> = &'a mut dyn Iterator<Item = (LabelSet, T)>;

/// Writes whole families in one format.
///
/// A family is written once, with at least one series. A method fails if the format cannot hold the
/// family.
pub trait Sink {
    /// Writes counters: each counts from its beginning, and never goes back.
    fn counter(&mut self, family: &Family<'_>, series: Series<'_, Value>) -> fmt::Result;

    /// Writes gauges: each is a value as it is now.
    fn gauge(&mut self, family: &Family<'_>, series: Series<'_, Value>) -> fmt::Result;

    /// Writes histograms: each has the counts of all native buckets, and the sum of its values.
    fn histogram(&mut self, family: &Family<'_>, series: Series<'_, Counts>) -> fmt::Result;

    /// Writes infos: each is a set of labels without a value.
    fn info(
        &mut self,
        family: &Family<'_>,
        series: &mut dyn Iterator<Item = InfoLabels>,
    ) -> fmt::Result;
}
