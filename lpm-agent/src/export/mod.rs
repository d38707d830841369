//! The interfaces to the outside: Prometheus metrics, JSON over HTTP, and a stream of samples.

mod counters;
mod created;
mod families;
mod histograms;
pub mod http;
mod identity;
mod info_metrics;
mod interfaces;
pub mod json;
mod levels;
mod methods;
pub mod metrics;
pub mod names;
pub mod negotiate;
pub mod number;
pub mod ports;
mod process;
mod queries;
mod requests;
pub mod sample;
pub mod stream;
pub mod text;
pub mod tunnel;

pub use http::Server;
pub use metrics::Metrics;
pub use stream::Hub;
