//! How far a connection has come, and when it is overdue.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, sleep, sleep_until},
};

use super::limits::Limits;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing, until the next request begins.
    Idle,
    /// It sends the header of a request, or has not begun to send its first one.
    Header,
    /// It gets a response that has an end.
    Response,
    /// It gets a stream.
    Stream,
}

/// Why a connection is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// No request came in a long time, which is nobody's fault.
    Idle,
    /// The header of a request is not complete.
    Header,
    /// The client does not read.
    Unread,
    /// The response takes too long.
    Slow,
}

/// The stage of a connection and since when it lasts.
#[derive(Debug)]
pub(super) struct Progress(Mutex<State>);

#[derive(Debug)]
struct State {
    stage: Stage,
    since: Instant,
    /// Since when the client has read nothing, while there is something to read.
    unread: Option<Instant>,
}

impl Progress {
    /// The progress of a connection that begins now.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            stage: Stage::Header,
            since: Instant::now(),
            unread: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, next: Stage) {
        let mut state = self.state();
        (state.stage, state.since) = (next, Instant::now());
    }

    /// A request's header is complete.
    pub(super) fn respond(&self) {
        self.enter(Stage::Response);
    }

    /// The response is a stream.
    pub(super) fn stream(&self) {
        self.enter(Stage::Stream);
    }

    /// The response is handed over.
    pub(super) fn responded(&self) {
        self.enter(Stage::Idle);
    }

    /// True while the response is a stream.
    pub(super) fn streams(&self) -> bool {
        self.state().stage == Stage::Stream
    }

    fn read(&self) {
        let mut state = self.state();
        if state.stage == Stage::Idle {
            (state.stage, state.since) = (Stage::Header, Instant::now());
        }
    }

    fn wrote(&self, waits: bool) {
        let mut state = self.state();
        state.unread = waits.then(|| state.unread.unwrap_or_else(Instant::now));
    }

    /// The next deadline, if this stage has one.
    fn deadline(&self, limits: &Limits) -> Option<(Instant, Overdue)> {
        let state = self.state();
        let of_stage = match state.stage {
            Stage::Idle => Some((limits.idle, Overdue::Idle)),
            Stage::Header => Some((limits.header, Overdue::Header)),
            Stage::Response => Some((limits.response, Overdue::Slow)),
            Stage::Stream => None,
        };
        let of_stage = of_stage.map(|(time, why)| (state.since + time, why));
        let unread = state
            .unread
            .map(|since| (since + limits.unread, Overdue::Unread));
        let both = of_stage.into_iter().chain(unread);
        both.min_by_key(|(deadline, _)| *deadline)
    }

    /// Waits until the connection is overdue.
    pub(super) async fn overdue(&self, limits: &Limits) -> Overdue {
        // A stage that begins meanwhile may have a nearer deadline.
        let of_stages = limits.header.min(limits.idle).min(limits.response);
        let look_again = of_stages.min(limits.unread) / 5;
        loop {
            match self.deadline(limits) {
                Some((deadline, why)) if deadline <= Instant::now() => return why,
                Some((deadline, _)) => sleep_until(deadline.min(Instant::now() + look_again)).await,
                None => sleep(limits.unread.max(Duration::from_millis(1))).await,
            }
        }
    }
}

/// A connection that notes what is read and written in its [`Progress`].
pub(super) struct Observed<S> {
    stream: S,
    progress: Arc<Progress>,
}

impl<S> Observed<S> {
    pub(super) fn new(stream: S, progress: Arc<Progress>) -> Self {
        Self { stream, progress }
    }

    fn wrote<T>(&self, written: Poll<T>) -> Poll<T> {
        self.progress.wrote(written.is_pending());
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Observed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, into))?;
        if into.filled().len() > before {
            self.progress.read();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Observed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    // A TLS stream keeps bytes of its own, which a flush must get rid of.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.wrote(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
