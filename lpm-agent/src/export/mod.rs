//! Metrics: who has some ([`collect`]), where they go ([`sink`]), and Prometheus' formats.

pub mod agent;
pub mod collect;
mod counters;
mod created;
pub mod families;
mod flows;
mod histograms;
mod identity;
mod info_metrics;
mod interfaces;
mod labels;
mod levels;
mod methods;
pub mod metrics;
pub mod negotiate;
pub mod number;
mod ports;
mod process;
mod prometheus;
mod queries;
mod requests;
mod round_trips;
mod segments;
pub mod sink;
pub mod text;

pub use metrics::Metrics;
