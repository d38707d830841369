//! Hundreds and thousands of connections at a steady rate.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

use super::{Control, Limit, PATIENCE, Summary, preamble::Preamble};

/// Connections that are opened at the same time.
const OPENING: usize = 64;

/// What [`many`] sends.
#[derive(Debug, Clone, Copy)]
pub struct ManyConfig {
    /// The server.
    pub target: SocketAddr,
    /// Connections open at the same time, each with a port of its own.
    pub connections: usize,
    /// Requests per second over all connections, spread evenly and in turn
    /// (to a millisecond).
    pub requests_per_second: f64,
    /// Bytes of a request.
    pub request: u32,
    /// Bytes of an answer.
    pub response: u32,
    /// Opens a new connection in its place after this many requests: churn.
    pub requests_per_connection: Option<u64>,
    /// When it ends, counted from when all are open; `count` is in requests
    /// per connection.
    pub limit: Limit,
}

impl ManyConfig {
    /// 64 bytes each way.
    #[must_use]
    pub fn new(target: SocketAddr, connections: usize, requests_per_second: f64) -> Self {
        Self {
            target,
            connections,
            requests_per_second,
            request: 64,
            response: 64,
            requests_per_connection: None,
            limit: Limit::default(),
        }
    }
}

/// What [`many`] did and saw.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ManyReport {
    /// Connections opened.
    pub connections: u64,
    /// Requests answered.
    pub requests: u64,
    /// From when all were open to the end.
    pub seconds: f64,
    /// From sending a request to its answer; None if nothing was answered.
    pub rtt: Option<Summary>,
}

/// Opens all connections, then sends on them in turn.
pub fn many(config: &ManyConfig, control: &Control) -> io::Result<ManyReport> {
    runtime()?.block_on(run(*config, control.clone()))
}

/// A runtime for the calling thread, whose sockets so open in its namespace.
pub(super) fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

async fn run(config: ManyConfig, control: Control) -> io::Result<ManyReport> {
    let mut opening = JoinSet::new();
    let permits = Arc::new(Semaphore::new(OPENING));
    for _ in 0..config.connections {
        let permits = Arc::clone(&permits);
        opening.spawn(async move {
            let _permit = permits.acquire_owned().await.map_err(io::Error::other)?;
            connect(config).await
        });
    }
    let mut streams = Vec::with_capacity(config.connections);
    while let Some(outcome) = opening.join_next().await {
        streams.push(outcome.map_err(io::Error::other)??);
    }
    control.ready();
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for (index, stream) in streams.into_iter().enumerate() {
        tasks.spawn(one(config, control.clone(), stream, start, index));
    }
    let (mut connections, mut times) = (0, Vec::new());
    while let Some(outcome) = tasks.join_next().await {
        let (opened, more) = outcome.map_err(io::Error::other)??;
        connections += opened;
        times.extend(more);
    }
    Ok(ManyReport {
        connections,
        requests: times.len() as u64,
        seconds: start.elapsed().as_secs_f64(),
        rtt: Summary::of(times),
    })
}

/// One place among the connections: how many it opened, and their round trips.
async fn one(
    config: ManyConfig,
    control: Control,
    mut stream: TcpStream,
    start: Instant,
    index: usize,
) -> io::Result<(u64, Vec<u64>)> {
    let turn = Duration::from_secs_f64(1.0 / config.requests_per_second.max(1e-3));
    let count = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let period = turn * count(config.connections);
    let mut next = start + turn * count(index);
    let (mut connections, mut times) = (1, Vec::new());
    let mut buffer = vec![0; config.request.max(config.response) as usize];
    let mut done = 0_u64;
    loop {
        // Stopping is noticed within a tenth of a second, however long the
        // period is.
        let goes_on = || !control.stopped() && !config.limit.reached(start, done);
        while next > Instant::now() && goes_on() {
            let wake = next.min(Instant::now() + Duration::from_millis(100));
            let wake = config.limit.end(start).map_or(wake, |end| wake.min(end));
            tokio::time::sleep_until(wake.into()).await;
        }
        if !goes_on() {
            return Ok((connections, times));
        }
        let sent = Instant::now();
        let exchange = async {
            stream.write_all(&buffer[..config.request as usize]).await?;
            stream
                .read_exact(&mut buffer[..config.response as usize])
                .await
        };
        timeout(PATIENCE, exchange).await??;
        times.push(u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX));
        done += 1;
        next += period;
        if config
            .requests_per_connection
            .is_some_and(|limit| done.is_multiple_of(limit))
        {
            stream = connect(config).await?;
            connections += 1;
        }
    }
}

async fn connect(config: ManyConfig) -> io::Result<TcpStream> {
    let mut stream = timeout(PATIENCE, TcpStream::connect(config.target)).await??;
    stream.set_nodelay(true)?;
    let ManyConfig {
        request, response, ..
    } = config;
    let preamble = Preamble::Respond {
        request,
        response,
        think: Duration::ZERO,
    };
    stream.write_all(&preamble.encode()).await?;
    Ok(stream)
}
