//! The Prometheus metrics: all collectors, read at each scrape.
//!
//! The kernel counts the histograms, so they are handed to the encoder whole. A series that was
//! never measured is absent.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder,
        prometheus_protobuf::{self, prometheus_data_model::MetricFamily},
    },
    registry::Registry,
};
use prost::Message as _;

use super::{
    collect::Collectors,
    created::Created,
    negotiate::Format,
    prometheus::Prometheus,
    text::{self, Dialect},
};

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

/// The metrics of all collectors, in each format.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Held while the model is read. So no reader sees counters go back, and many readers do not
    /// take more than one CPU.
    created: Mutex<Created>,
}

impl Metrics {
    /// Makes the metrics of all registered sources.
    #[must_use]
    pub fn new(collectors: Collectors) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Bridge(Arc::new(collectors))));
        let now = SystemTime::now();
        Self {
            registry,
            created: Mutex::new(Created::new(now, now)),
        }
    }

    /// Sets the time at which the maps were made, if they are older than these metrics.
    #[must_use]
    pub fn counting_since(mut self, maps: SystemTime) -> Self {
        self.created = Mutex::new(Created::new(maps, SystemTime::now()));
        self
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

/// Hands the collectors to the client library, which reads them at each scrape.
#[derive(Debug)]
struct Bridge(Arc<Collectors>);

impl Collector for Bridge {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        self.0.collect(&mut Prometheus(encoder))
    }
}

#[cfg(test)]
mod reference;
#[cfg(test)]
pub(crate) mod tests;
