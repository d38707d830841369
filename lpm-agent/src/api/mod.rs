//! The HTTP API: health, metrics, flows as JSON, a stream of samples, and names for other agents.
//!
//! Each file makes a router of its paths, [`routes()`] joins them, and [`access`] decides who may ask,
//! by what [`auth`] finds out and [`web_config`] says. [`Server`] and [`LocalServer`] accept
//! connections, [`Admission`] decides which stay, and [`Door`] serves them within [`Limits`].

pub mod access;
mod admission;
pub mod auth;
mod door;
mod flow_id;
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
mod probes;
mod progress;
mod router;
pub mod sample;
mod serving;
pub mod stream;
mod stream_limits;
mod tls;
pub mod tunnel;
mod unix;
mod watch;
pub mod web_config;

pub use access::Access;
pub use admission::{Admission, Place};
pub use door::{Door, Endless};
pub use flows::Page;
pub use limits::{Limits, Shares};
pub use listener::{Purpose, ServeError, Server};
pub use peer::Peer;
pub use router::{App, Routes, health, routes};
pub use serving::{Listeners, Serving};
pub use stream::Hub;
pub use unix::{LocalServer, SocketError, prepare_socket};
pub use watch::StreamLine;
