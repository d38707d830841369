//! The HTTP API: health, metrics, flows as JSON, a stream of samples, and names for other agents.
//!
//! Each file makes a router of its paths, [`router()`] joins them, and [`access`] decides who may ask.

pub mod access;
mod flows;
pub mod json;
mod listener;
mod metrics;
pub mod names;
pub mod ports;
mod router;
pub mod sample;
pub mod stream;
pub mod tunnel;
mod watch;

pub use flows::Page;
pub use listener::{ServeError, Server};
pub use router::{App, router};
pub use stream::Hub;
pub use watch::StreamLine;
