//! The doors out: Prometheus, JSON over HTTP, a stream of samples.

pub mod agent;
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
pub mod json;
mod labels;
mod levels;
mod methods;
pub mod metrics;
pub mod names;
pub mod negotiate;
pub mod number;
pub mod ports;
mod process;
mod prometheus;
mod queries;
mod requests;
mod round_trips;
pub mod sample;
mod segments;
pub mod sink;
pub mod stream;
pub mod text;
pub mod tunnel;

pub use http::Server;
pub use metrics::Metrics;
pub use stream::Hub;
