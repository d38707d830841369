//! Traffic for the testbed: a [`Server`] and the clients that drive it.
//!
//! Everything works in the calling process. The clients ([`bulk`],
//! [`requests`], [`paced`], [`many`]) open their sockets in the namespace of
//! the thread that calls them: start them with [`Background::start`], or call
//! them through [`Netns::run_in`](crate::testbed::Netns::run_in). A client says
//! in the first bytes of each connection what it wants, so one server serves
//! all kinds of them, over IPv4 and IPv6.

mod background;
mod bulk;
mod demo;
mod many;
mod paced;
mod preamble;
mod requests;
mod server;

use std::time::{Duration, Instant};

pub use background::{Background, Control};
pub use bulk::{BulkConfig, BulkReport, bulk};
pub use demo::Demo;
pub use many::{ManyConfig, ManyReport, many};
pub use paced::{PacedConfig, PacedReport, PacedSize, paced};
pub use requests::{RequestConfig, RequestReport, requests};
pub use server::Server;

pub use crate::stats::Summary;

/// The port that a [`Server`] listens on unless told otherwise.
pub const PORT: u16 = 5301;

/// A peer that says nothing for this long is taken for dead.
const PATIENCE: Duration = Duration::from_secs(20);

/// When a client stops by itself. Without any limit it goes on until its
/// [`Control`] stops it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limit {
    /// After this time.
    pub duration: Option<Duration>,
    /// After this many bytes (bulk) or messages (the others).
    pub count: Option<u64>,
}

impl Limit {
    /// Stops after this many bytes or messages.
    #[must_use]
    pub fn count(count: u64) -> Self {
        Self {
            count: Some(count),
            ..Self::default()
        }
    }

    /// Stops after this time.
    #[must_use]
    pub fn duration(duration: Duration) -> Self {
        Self {
            duration: Some(duration),
            ..Self::default()
        }
    }

    fn reached(&self, start: Instant, count: u64) -> bool {
        self.count.is_some_and(|limit| count >= limit)
            || self.end(start).is_some_and(|end| Instant::now() >= end)
    }

    /// When the time is over, if it ever is.
    fn end(&self, start: Instant) -> Option<Instant> {
        start.checked_add(self.duration?)
    }
}
