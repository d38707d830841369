//! Requests and answers over a few connections, timed by the client.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{Control, Limit, PATIENCE, Summary, preamble::Preamble};

/// What [`requests`] sends.
#[derive(Debug, Clone, Copy)]
pub struct RequestConfig {
    /// The server.
    pub target: SocketAddr,
    /// Connections, each with a thread; [`many`](super::many) is for hundreds.
    pub connections: usize,
    /// Bytes of a request.
    pub request: u32,
    /// Bytes of an answer.
    pub response: u32,
    /// How long the server thinks, in whole milliseconds.
    pub think: Duration,
    /// From one request to the next; zero: as soon as the answer is there.
    pub period: Duration,
    /// Moves each request by up to this share of the period, either way.
    pub jitter: f64,
    /// Pauses for the second after this many requests: idle gaps.
    pub gap: Option<(u64, Duration)>,
    /// Opens a new connection after this many requests.
    pub requests_per_connection: Option<u64>,
    /// When each connection ends; `count` is in requests.
    pub limit: Limit,
    /// Seed of the jitter.
    pub seed: u64,
}

impl RequestConfig {
    /// 100 bytes each way on one connection, back to back, without end.
    #[must_use]
    pub fn new(target: SocketAddr) -> Self {
        Self {
            target,
            connections: 1,
            request: 100,
            response: 100,
            think: Duration::ZERO,
            period: Duration::ZERO,
            jitter: 0.0,
            gap: None,
            requests_per_connection: None,
            limit: Limit::default(),
            seed: 1,
        }
    }
}

/// What [`requests`] did and saw.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RequestReport {
    /// Connections opened.
    pub connections: u64,
    /// Requests answered.
    pub requests: u64,
    /// How long it took.
    pub seconds: f64,
    /// From the start of sending a request to the end of its answer, think
    /// time included; None if nothing was answered.
    pub rtt: Option<Summary>,
}

/// Sends requests and times their answers.
pub fn requests(config: &RequestConfig, control: &Control) -> io::Result<RequestReport> {
    let start = Instant::now();
    let open = Barrier::new(config.connections);
    let outcomes: Vec<io::Result<Caller>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..config.connections)
            .map(|index| {
                let open = &open;
                scope.spawn(move || Caller::run(config, control, index, open))
            })
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| match thread.join() {
            Ok(outcome) => outcome,
            Err(payload) => std::panic::resume_unwind(payload),
        };
        threads.into_iter().map(join).collect()
    });
    let mut times = Vec::new();
    let mut connections = 0;
    for outcome in outcomes {
        let caller = outcome?;
        connections += caller.connections;
        times.extend(caller.times);
    }
    Ok(RequestReport {
        connections,
        requests: times.len() as u64,
        seconds: start.elapsed().as_secs_f64(),
        rtt: Summary::of(times),
    })
}

/// What one connection at a time did.
struct Caller {
    connections: u64,
    times: Vec<u64>,
}

impl Caller {
    fn run(
        config: &RequestConfig,
        control: &Control,
        index: usize,
        open: &Barrier,
    ) -> io::Result<Self> {
        let _ = nix::sys::prctl::set_timerslack(1);
        let connected = connect(config);
        // Everyone passes here, also who failed, or the others would wait on.
        if open.wait().is_leader() {
            control.ready();
        }
        let mut stream = connected?;
        let mut random = fastrand::Rng::with_seed(config.seed.wrapping_add(index as u64));
        let mut caller = Self {
            connections: 1,
            times: Vec::new(),
        };
        let mut buffer = vec![0; config.request.max(config.response) as usize];
        let start = Instant::now();
        let mut done = 0_u64;
        let mut slot = start;
        while !control.stopped() && !config.limit.reached(start, done) {
            let sent = Instant::now();
            stream.write_all(&buffer[..config.request as usize])?;
            stream.read_exact(&mut buffer[..config.response as usize])?;
            caller
                .times
                .push(u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX));
            done += 1;
            slot += config.period;
            if let Some((every, pause)) = config.gap
                && every > 0
                && done.is_multiple_of(every)
            {
                slot = Instant::now() + pause;
            }
            // From jitter early to jitter late: the earliest is a full jitter
            // before the slot, so all are counted from there.
            let early = config.period.mul_f64(config.jitter.clamp(0.0, 1.0));
            let earliest = slot.checked_sub(early).unwrap_or(slot);
            let next = earliest + early.mul_f64(2.0 * random.f64());
            let next = config.limit.end(start).map_or(next, |end| next.min(end));
            if config.limit.reached(start, done) || control.sleep_until(next) {
                break;
            }
            if config
                .requests_per_connection
                .is_some_and(|limit| done.is_multiple_of(limit))
            {
                stream = connect(config)?;
                caller.connections += 1;
            }
        }
        Ok(caller)
    }
}

fn connect(config: &RequestConfig) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&config.target, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE + config.think))?;
    let RequestConfig {
        request,
        response,
        think,
        ..
    } = *config;
    stream.write_all(
        &Preamble::Respond {
            request,
            response,
            think,
        }
        .encode(),
    )?;
    Ok(stream)
}
