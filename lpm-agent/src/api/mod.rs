//! The HTTP API: health, metrics, flows as JSON, a stream of samples, and names for other agents.
//!
//! Each file makes a router of its paths, [`router()`] joins them, and [`access`] decides who may ask.
//! [`Server`] accepts connections, [`Admission`] decides which stay, and [`Door`] serves them within
//! [`Limits`].

pub mod access;
mod admission;
mod door;
mod flows;
pub mod json;
mod limits;
mod listener;
mod metrics;
pub mod names;
mod pages;
mod peer;
mod pieces;
pub mod ports;
mod progress;
mod router;
pub mod sample;
mod serving;
pub mod stream;
mod streams;
pub mod tunnel;
mod watch;

pub use admission::{Admission, Place};
pub use door::{Door, Endless};
pub use flows::Page;
pub use limits::{Limits, Shares};
pub use listener::{Purpose, ServeError, Server};
pub use peer::Peer;
pub use router::{App, health, router};
pub use serving::{Listeners, Serving};
pub use stream::Hub;
pub use watch::StreamLine;
