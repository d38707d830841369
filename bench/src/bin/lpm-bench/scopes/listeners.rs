//! What it takes an agent to tell others its names.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use lpm_agent::{api::names, identity::peers::PATH};
use lpm_testbed::kubernetes::ApiServer;
use nix::sys::resource::{UsageWho, getrusage};

use super::server::Agent;
use crate::rss::anonymous;

/// How many listen.
const LISTENERS: u32 = 400;

/// How long they do.
const LONG: Duration = Duration::from_secs(10);

/// Per listener.
#[derive(Debug)]
pub(crate) struct Listeners {
    /// Memory, bytes.
    pub(crate) memory: u64,
    /// Time of a CPU per second, microseconds; the listener's own few included.
    pub(crate) cpu_us: f64,
    /// Bytes of all names, of a node with ten pods.
    pub(crate) first: u64,
}

/// Lets many listen to one agent.
pub(crate) fn measure(api: &ApiServer) -> Result<Listeners> {
    let agent = Agent::start(api, true)?;
    let runtime = tokio::runtime::Runtime::new().context("a runtime")?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
    let at = listener.local_addr()?;
    let service = names::router(Arc::clone(&agent.publisher))
        .into_make_service_with_connect_info::<SocketAddr>();
    runtime.spawn(async move { axum::serve(listener, service).await });
    let (_one, first) = listen(at)?;
    let quiet = spent(LONG)?;
    let before = anonymous()?;
    let open: Vec<_> = (0..LISTENERS).map(|_| listen(at)).collect::<Result<_>>()?;
    let memory = anonymous()?.saturating_sub(before) / u64::from(LISTENERS);
    let busy = spent(LONG)?;
    drop(open);
    Ok(Listeners {
        memory,
        cpu_us: (busy - quiet) * 1e6 / f64::from(LISTENERS),
        first,
    })
}

/// Asks, and reads the first line.
fn listen(at: SocketAddr) -> Result<(TcpStream, u64)> {
    let mut stream = TcpStream::connect(at).context("connect")?;
    stream.write_all(format!("GET {PATH} HTTP/1.1\r\nhost: {at}\r\n\r\n").as_bytes())?;
    let (mut buffer, mut read) = (vec![0; 64 << 10], 0);
    loop {
        let more = stream.read(&mut buffer[read..]).context("read names")?;
        anyhow::ensure!(more > 0, "the agent hung up");
        read += more;
        if buffer[..read].windows(3).any(|end| end == b"}\n\r") {
            return Ok((stream, read as u64));
        }
    }
}

/// Time of a CPU that this process uses per second.
fn spent(during: Duration) -> Result<f64> {
    let used = || -> Result<f64> {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let seconds = |time: nix::sys::time::TimeVal| {
            Duration::new(time.tv_sec().unsigned_abs(), 0)
                + Duration::from_micros(time.tv_usec().unsigned_abs())
        };
        Ok((seconds(usage.user_time()) + seconds(usage.system_time())).as_secs_f64())
    };
    let (before, begun) = (used()?, Instant::now());
    thread::sleep(during);
    let spent = (used()? - before) / begun.elapsed().as_secs_f64();
    Ok(spent)
}
