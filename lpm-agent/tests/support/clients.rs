//! Hostile HTTP clients, which come again whenever they are cut off.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use lpm_testbed::testbed::Netns;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    runtime,
    time::{Instant, sleep, sleep_until, timeout},
};

/// Pause of a client before it comes again. Shorter ones would occupy the machine with the clients.
const AGAIN: Duration = Duration::from_secs(1);

/// For how long a client stays that does not notice by itself that it was cut off.
const STAY: Duration = Duration::from_secs(12);

/// Requests that a client sends at once.
const PIPELINED: usize = 200;

/// What a client does to the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It asks for the metrics and does not read them.
    SlowReader,
    /// It sends a header, byte by byte.
    SlowWriter,
    /// It sends nothing.
    Silent,
    /// It sends many requests at once, and reads nothing.
    Pipelining,
    /// It watches samples, and reads none.
    Watcher,
}

/// Clients at work. Dropping them ends them.
pub(crate) struct Clients {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Clients {
    /// Starts as many clients of each kind in a namespace (None: this process's), at these addresses
    /// in turn.
    pub(crate) fn start(
        netns: Option<&Netns>,
        kinds: &'static [Kind],
        each: usize,
        from: Vec<Ipv4Addr>,
        to: SocketAddr,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let work = move || {
            let mut builder = runtime::Builder::new_current_thread();
            let runtime = builder.enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                for number in 0..each {
                    for kind in kinds {
                        let from = from[number % from.len()];
                        tokio::spawn(harass(*kind, from, to));
                    }
                }
                while !stopped.load(Ordering::Relaxed) {
                    sleep(Duration::from_millis(20)).await;
                }
            });
        };
        let thread = match netns {
            None => thread::spawn(work),
            Some(netns) => {
                let thread = netns.spawn_thread("hostile", work).expect("a thread");
                thread::spawn(move || thread.join().expect("clients").expect("a namespace"))
            }
        };
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed.
            let _ = thread.join();
        }
    }
}

async fn harass(kind: Kind, from: Ipv4Addr, to: SocketAddr) {
    loop {
        if let Ok(Ok(stream)) = timeout(STAY, connect(kind, from, to)).await {
            // It was cut off, as it should be.
            let _ = act(kind, stream).await;
        }
        sleep(AGAIN).await;
    }
}

async fn connect(kind: Kind, from: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if kind != Kind::Silent {
        socket.set_recv_buffer_size(2048)?;
    }
    socket.bind((from, 0).into())?;
    socket.connect(to).await
}

async fn act(kind: Kind, mut stream: TcpStream) -> io::Result<()> {
    let until = Instant::now() + STAY;
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    match kind {
        Kind::Silent => {
            let _ = timeout(STAY, stream.read_u8()).await;
        }
        Kind::SlowWriter => {
            stream
                .write_all(b"GET /metrics HTTP/1.1\r\nx-slow: ")
                .await?;
            loop {
                sleep(Duration::from_millis(500)).await;
                stream.write_all(b"x").await?;
            }
        }
        Kind::SlowReader => {
            stream.write_all(request("/metrics").as_bytes()).await?;
            sleep_until(until).await;
        }
        Kind::Pipelining => {
            let all = request("/metrics").repeat(PIPELINED);
            let _ = timeout(STAY, stream.write_all(all.as_bytes())).await;
            sleep_until(until).await;
        }
        Kind::Watcher => {
            stream
                .write_all(request("/api/v1/watch").as_bytes())
                .await?;
            sleep_until(until).await;
        }
    }
    Ok(())
}

/// Opens connections from an address that then vanishes without a word, again and again until it
/// is told to stop.
pub(crate) fn half_open(
    netns: &Netns,
    count: usize,
    address: Ipv4Addr,
    to: SocketAddr,
    stop: &AtomicBool,
) {
    while !stop.load(Ordering::Relaxed) {
        netns
            .ip(&format!("addr add {address}/24 dev eth0"))
            .expect("an address");
        let open = netns.run_in(|| {
            let mut builder = runtime::Builder::new_current_thread();
            let runtime = builder.enable_all().build().expect("a runtime");
            let open: Vec<_> = runtime.block_on(async {
                let connect = |_| timeout(STAY, connect(Kind::SlowReader, address, to));
                let mut open = Vec::new();
                for stream in (0..count).map(connect) {
                    let Ok(Ok(mut stream)) = stream.await else {
                        continue;
                    };
                    let sent = stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
                    if sent.await.is_ok() {
                        open.push(stream);
                    }
                }
                open
            });
            // The kernel answers for no address that it does not have.
            (open, runtime)
        });
        netns
            .ip(&format!("addr del {address}/24 dev eth0"))
            .expect("no address");
        let until = std::time::Instant::now() + STAY;
        while !stop.load(Ordering::Relaxed) && std::time::Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
        }
        drop(open);
    }
}

/// Tells a thread to stop when dropped, so that a failed test ends.
pub(crate) struct Ended<'a>(pub(crate) &'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
