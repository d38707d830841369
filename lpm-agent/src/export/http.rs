//! The HTTP server: metrics, health, the API.
//!
//! `/metrics`, `/healthz` and `/readyz` contain no address and may be open. Everything below `/api`
//! answers loopback clients only, except the names that agents exchange ([`names`]).

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, Query, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tower_http::compression::CompressionLayer;

use super::{
    Hub, Metrics, json, names,
    negotiate::{self, Format},
    sample::SampleRecord,
    stream::Watcher,
};
use crate::{identity::processes::Sockets, passive::clock::wall_clock};

/// Interval between lines to a watcher without samples. A line shows that both sides live.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Chunks of the stream that may wait for a slow client.
const CHUNKS: usize = 16;

/// Most samples in one chunk.
const BATCH: usize = 512;

/// Why the server could not be started.
#[derive(Debug, Error)]
pub enum ServeError {
    /// Another program listens at the address.
    #[error(
        "the address {address} is taken: another agent or another program listens there (`ss \
         -ltnp` shows which); stop it, or give another address with --listen or the key `listen`"
    )]
    Taken {
        /// The address.
        address: SocketAddr,
    },
    /// The address cannot be bound for another reason.
    #[error(
        "cannot listen on {address}: {source}; give an address of this machine with --listen or \
         the key `listen`; ports below 1024 need root or CAP_NET_BIND_SERVICE"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The kernel's error.
        source: io::Error,
    },
}

/// State that the handlers share.
#[derive(Debug)]
pub struct App {
    /// The metrics.
    pub metrics: Metrics,
    /// The samples, and the model.
    pub hub: Arc<Hub>,
    /// True once every existing interface has been handled.
    pub ready: AtomicBool,
}

/// A bound port that does not serve yet. It is bound early, so that a taken port is found before
/// any program is loaded.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Binds the address.
    pub async fn bind(address: SocketAddr) -> Result<Self, ServeError> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| match source.kind() {
                io::ErrorKind::AddrInUse => ServeError::Taken { address },
                _ => ServeError::Bind { address, source },
            })?;
        let address = listener.local_addr().unwrap_or(address);
        Ok(Self { listener, address })
    }

    /// The address that the port is bound to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `end` completes. Then streams are cut off.
    ///
    /// # Errors
    /// The listening socket fails.
    pub async fn serve(
        self,
        app: Arc<App>,
        end: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let service = router(app).into_make_service_with_connect_info::<SocketAddr>();
        tokio::select! {
            served = axum::serve(self.listener, service).into_future() => served,
            () = end => Ok(()),
        }
    }
}

fn router(app: Arc<App>) -> Router {
    let api = Router::new()
        .route("/flows", get(flows))
        .route("/latency", get(latency))
        .route("/links", get(links))
        .route("/watch", get(watch))
        .layer(middleware::from_fn(loopback_only));
    let names = names::router(Arc::clone(app.hub.model().registry().board()));
    Router::new()
        .route("/metrics", get(metrics).layer(CompressionLayer::new()))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .nest("/api/v1", api)
        .with_state(app)
        .merge(names)
}

async fn loopback_only(
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    if client.ip().to_canonical().is_loopback() {
        return next.run(request).await;
    }
    let text = "/api is served to this machine only: use the address 127.0.0.1\n";
    (StatusCode::FORBIDDEN, text).into_response()
}

async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let accept = headers.get_all(header::ACCEPT).into_iter();
    // A cache must know which request header the answer depends on.
    let vary = (header::VARY, "Accept");
    let Some(format) = negotiate::format(accept.map(HeaderValue::as_bytes)) else {
        let served = Format::ALL.map(Format::content_type).join("\n");
        let text =
            format!("the header Accept excludes every format that is served here:\n{served}\n");
        return (StatusCode::NOT_ACCEPTABLE, [vary], text).into_response();
    };
    let encoded = blocking(move || app.metrics.encode(format)).await;
    match encoded {
        Ok(body) => {
            let kind = (header::CONTENT_TYPE, format.content_type());
            ([kind, vary], body).into_response()
        }
        Err(error) => failed(&error),
    }
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    if app.ready.load(Ordering::Acquire) {
        (StatusCode::OK, "ready\n").into_response()
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the agent has not gone through all interfaces yet\n",
        )
            .into_response()
    }
}

/// Query parameters of `/api/v1/flows`.
#[derive(Debug, Deserialize)]
struct FlowsQuery {
    /// True: include idle and closed flows.
    #[serde(default)]
    all: bool,
    /// True: include the processes that hold the sockets. It takes a walk through `/proc`.
    #[serde(default)]
    processes: bool,
}

/// A list as the API serves it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Page<T> {
    /// Version of the records: [`super::sample::SCHEMA`].
    pub schema: u32,
    /// The records.
    pub items: Vec<T>,
}

impl<T> Page<T> {
    fn of(items: Vec<T>) -> Self {
        Self {
            schema: super::sample::SCHEMA,
            items,
        }
    }
}

async fn flows(State(app): State<Arc<App>>, Query(query): Query<FlowsQuery>) -> Response {
    let flows = blocking(move || {
        let sockets = query.processes.then(Sockets::scan);
        json::flows(app.hub.model(), sockets.as_ref())
    })
    .await;
    match flows {
        Ok(mut flows) => {
            flows.retain(|flow| query.all || flow.active);
            Json(Page::of(flows)).into_response()
        }
        Err(error) => failed(&error),
    }
}

async fn latency(State(app): State<Arc<App>>) -> Response {
    let latencies = blocking(move || json::latencies(app.hub.model())).await;
    Json(Page::of(latencies)).into_response()
}

async fn links(State(app): State<Arc<App>>) -> Response {
    let found = blocking(move || {
        let model = app.hub.model();
        json::flows(model, None).map(|flows| json::links(model, &flows))
    });
    match found.await {
        Ok(links) => Json(Page::of(links)).into_response(),
        Err(error) => failed(&error),
    }
}

/// One line of the stream `/api/v1/watch`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StreamLine {
    /// A sample.
    Sample(Box<SampleRecord>),
    /// Sent every second: how many samples this watcher did not get so far.
    Missed {
        /// Version of the records: [`super::sample::SCHEMA`].
        schema: u32,
        /// Number of samples missed.
        missed: u64,
    },
}

async fn watch(State(app): State<Arc<App>>) -> Response {
    let (sender, chunks) = mpsc::channel(CHUNKS);
    let watcher = app.hub.watch();
    tokio::spawn(send_samples(watcher, sender));
    let body = Body::from_stream(ReceiverStream::new(chunks));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

/// Sends lines until the client disconnects.
async fn send_samples(mut watcher: Watcher, to: mpsc::Sender<Result<Bytes, Infallible>>) {
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    loop {
        let chunk = tokio::select! {
            sample = watcher.next() => {
                let Some(sample) = sample else { return };
                let mut samples = vec![sample];
                while samples.len() < BATCH && let Some(sample) = watcher.ready() {
                    samples.push(sample);
                }
                sample_lines(&watcher, &samples)
            }
            _ = heartbeat.tick() => {
                let missed = watcher.missed();
                line(&StreamLine::Missed { schema: super::sample::SCHEMA, missed })
            }
            () = to.closed() => return,
        };
        if to.send(Ok(Bytes::from(chunk))).await.is_err() {
            return;
        }
    }
}

fn sample_lines(watcher: &Watcher, samples: &[lpm_common::layout::Sample]) -> Vec<u8> {
    let model = watcher.hub().model();
    let (links, whose) = (model.links(), model.registry().whose());
    // Without clocks there is no time to tell. They could be read when the agent started.
    let Ok(clock) = wall_clock() else {
        return Vec::new();
    };
    samples
        .iter()
        .flat_map(|sample| {
            let link = links.get(&sample.ifindex);
            line(&StreamLine::Sample(Box::new(SampleRecord::new(
                sample,
                &clock,
                link.map(|link| link.name.as_str()),
                &whose,
            ))))
        })
        .collect()
}

fn line(line: &StreamLine) -> Vec<u8> {
    // The line holds strings and numbers only, so this does not fail.
    let mut json = serde_json::to_vec(line).unwrap_or_default();
    json.push(b'\n');
    json
}

fn failed(error: &dyn std::error::Error) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
}

/// Runs work that takes milliseconds of a CPU on a thread of its own, outside the server's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
