//! Serves HTTP on connections of any kind, within limits.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};

use super::{
    Peer,
    admission::Place,
    auth::Evidence,
    limits::Limits,
    progress::{Observed, Overdue, Progress},
};
use crate::export::http::{HttpCounts, HttpRefusal};

/// An extension of responses that have no end: the time for a whole response is not theirs.
#[derive(Clone, Copy, Debug)]
pub struct Endless;

/// What serves the admitted connections of a listener: the routes and the limits.
#[derive(Debug)]
pub struct Door {
    router: Router,
    limits: Limits,
    counts: Arc<HttpCounts>,
    /// True once the agent ends.
    ending: watch::Sender<bool>,
}

impl Door {
    /// Makes a door to these routes.
    #[must_use]
    pub fn new(router: Router, limits: Limits, counts: Arc<HttpCounts>) -> Arc<Self> {
        Arc::new(Self {
            router,
            limits,
            counts,
            ending: watch::Sender::new(false),
        })
    }

    /// The limits of each connection.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The counts of what is refused.
    #[must_use]
    pub fn counts(&self) -> &HttpCounts {
        &self.counts
    }

    /// Ends the connections: streams at once, others after the response that they are getting.
    pub fn end(&self) {
        self.ending.send_replace(true);
    }

    /// Serves one connection until it ends, is overdue, or must make room. Its requests carry the
    /// peer and the evidence in their extensions.
    pub async fn serve<S>(&self, stream: S, peer: Peer, evidence: Evidence, mut place: Place)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let progress = Progress::new();
        let io = TokioIo::new(Observed::new(stream, Arc::clone(&progress)));
        let responder = Responder {
            routes: TowerToHyperService::new(self.router.clone()),
            peer,
            evidence,
            progress: Arc::clone(&progress),
            counts: Arc::clone(&self.counts),
            left: AtomicUsize::new(self.limits.requests),
        };
        let responder = Arc::new(responder);
        let service = service_fn(move |request| Arc::clone(&responder).respond(request));
        let connection = http1::Builder::new()
            .max_buf_size(self.limits.buffer)
            .serve_connection(io, service);
        tokio::pin!(connection);
        let mut ending = self.ending.subscribe();
        let mut asked_to_end = false;
        loop {
            tokio::select! {
                _ = connection.as_mut() => return,
                why = progress.overdue(&self.limits) => return self.count(why),
                () = place.displaced() => return,
                _ = ending.wait_for(|ends| *ends), if !asked_to_end => {
                    if progress.streams() {
                        return;
                    }
                    connection.as_mut().graceful_shutdown();
                    asked_to_end = true;
                }
            }
        }
    }

    fn count(&self, why: Overdue) {
        match why {
            Overdue::Idle => {}
            Overdue::Header => self.counts.refuse(HttpRefusal::Header),
            Overdue::Unread => self.counts.refuse(HttpRefusal::Unread),
            Overdue::Slow => self.counts.refuse(HttpRefusal::Slow),
        }
    }
}

/// Responds to the requests of one connection.
struct Responder {
    routes: TowerToHyperService<Router>,
    peer: Peer,
    evidence: Evidence,
    progress: Arc<Progress>,
    counts: Arc<HttpCounts>,
    /// Requests that the connection may still make.
    left: AtomicUsize,
}

impl Responder {
    async fn respond(
        self: Arc<Self>,
        mut request: Request<Incoming>,
    ) -> Result<Response<Noted>, Infallible> {
        self.progress.respond();
        let mut last = self.left.fetch_sub(1, Ordering::Relaxed) <= 1;
        let mut response = if request.body().is_end_stream() {
            request.extensions_mut().insert(self.peer);
            request.extensions_mut().insert(self.evidence.clone());
            self.routes.call(request).await?
        } else {
            // What follows on the connection is the body, which nobody reads.
            last = true;
            self.counts.refuse(HttpRefusal::Body);
            let text = "no path takes a request with a body: send none\n";
            (StatusCode::PAYLOAD_TOO_LARGE, text).into_response()
        };
        if last {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        if response.extensions().get::<Endless>().is_some() {
            self.progress.stream();
        }
        let progress = Arc::clone(&self.progress);
        Ok(response.map(|body| Noted { body, progress }))
    }
}

/// The body of a response. Its end is noted in the connection's progress.
struct Noted {
    body: Body,
    progress: Arc<Progress>,
}

impl HttpBody for Noted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.progress.responded();
    }
}

#[cfg(test)]
mod tests;
