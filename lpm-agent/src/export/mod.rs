//! Metrics: their sources ([`collect`]), the formats they go to ([`sink`]), and those of Prometheus.

pub mod agent;
mod clock;
pub mod collect;
mod counters;
mod created;
pub mod families;
mod flows;
mod histograms;
pub mod http;
mod identity;
mod info_metrics;
mod interfaces;
mod l2sm;
mod labels;
mod levels;
mod methods;
pub mod metrics;
pub mod negotiate;
pub mod number;
mod ports;
mod probe_groups;
mod probes;
mod process;
mod prometheus;
mod queries;
mod reflector;
mod requests;
mod round_trips;
mod segments;
pub mod sink;
pub mod text;
mod verdicts;

pub use metrics::Metrics;
