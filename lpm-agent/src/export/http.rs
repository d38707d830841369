//! Metrics of the HTTP server: what it refused.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{collect::Collect, families::Families};

/// Why the HTTP server refused a connection or a request, or cut a connection off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpRefusal {
    /// The client has as many connections as one client may have.
    Client,
    /// The client's kind (stranger, node, this machine) has as many connections as it may have.
    Share,
    /// The connection gave way to one of a client with fewer connections.
    Displaced,
    /// The header of a request was not complete in time.
    Header,
    /// The client read nothing of its response for too long.
    Unread,
    /// The client took too long for a whole response.
    Slow,
    /// The request had a body.
    Body,
    /// Too many requests wait for the same work.
    Busy,
    /// Too many streams are open.
    Streams,
    /// The page was given up, because slow clients held too many.
    Page,
    /// The process has no descriptor left for a connection.
    Descriptors,
    /// A TLS handshake failed, or took too long.
    Tls,
    /// The client has shown no valid credentials.
    Unauthorized,
    /// The client may not use the path.
    Forbidden,
    /// More requests came than the web configuration permits.
    Rate,
}

impl HttpRefusal {
    /// All reasons, in the order of their numbers.
    const ALL: [Self; 15] = [
        Self::Client,
        Self::Share,
        Self::Displaced,
        Self::Header,
        Self::Unread,
        Self::Slow,
        Self::Body,
        Self::Busy,
        Self::Streams,
        Self::Page,
        Self::Descriptors,
        Self::Tls,
        Self::Unauthorized,
        Self::Forbidden,
        Self::Rate,
    ];

    fn reason(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Share => "share",
            Self::Displaced => "displaced",
            Self::Header => "header",
            Self::Unread => "unread",
            Self::Slow => "slow",
            Self::Body => "body",
            Self::Busy => "busy",
            Self::Streams => "streams",
            Self::Page => "page",
            Self::Descriptors => "descriptors",
            Self::Tls => "tls",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Rate => "rate",
        }
    }
}

/// Counts what the HTTP server refuses.
#[derive(Debug, Default)]
pub struct HttpCounts([AtomicU64; HttpRefusal::ALL.len()]);

impl HttpCounts {
    /// Counts one refusal.
    pub fn refuse(&self, why: HttpRefusal) {
        self.0[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The number of refusals for this reason so far.
    #[must_use]
    pub fn refused(&self, why: HttpRefusal) -> u64 {
        self.0[why as usize].load(Ordering::Relaxed)
    }
}

/// The metrics of the HTTP server.
pub(super) struct Http(pub(super) Arc<HttpCounts>);

impl Collect for Http {
    fn collect(&self, out: &mut Families<'_>) -> fmt::Result {
        let refused = HttpRefusal::ALL.map(|why| {
            let labels = vec![("reason", why.reason().to_owned())];
            (labels, self.0.refused(why))
        });
        out.counters(
            "http_refused",
            "HTTP connections and requests refused or cut off: one client had too many connections \
             (client), its kind of clients had (share), made room for a client with fewer \
             (displaced), request header late (header), response not read (unread) or read too \
             slowly (slow), request with a body (body), work in progress (busy), too many streams \
             (streams), page given up because slow clients held too many (page), no file descriptor \
             left (descriptors), failed TLS handshake (tls), no valid credentials (unauthorized), \
             path not permitted (forbidden), more requests than the web configuration permits \
             (rate)",
            None,
            refused,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_place() {
        for (at, why) in HttpRefusal::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, at, "{why:?}");
        }
    }
}
