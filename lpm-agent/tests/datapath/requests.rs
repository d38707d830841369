//! Requests and their whole answers, across a wire: each sample against the
//! client's clock, which it cannot exceed, and against the server's clock and
//! the wire's delay, below which it cannot be.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use lpm_testbed::testbed::{Pair, PairConfig};
use serde_json::Value;

use crate::support::lpm::{Agent, Lpm, eventually, kernel_is_usable, lpm as command};

/// One way, on the wire.
const DELAY: Duration = Duration::from_millis(5);
/// What the wire does to a round trip, less what its clock may be off.
const WIRE: Duration = Duration::from_micros(2 * 5_000 - 5);
/// Requests on one connection.
const REQUESTS: u32 = 12;
const REQUEST_BYTES: usize = 4_000;
const ANSWER_BYTES: usize = 20_000;

const NAMES: &str = "- {cidr: 198.18.1.0/24, namespace: shop, pod: web-0}
- {cidr: 'fd00:18:1::/64', namespace: shop, pod: web-0}
- {cidr: 198.18.2.0/24, namespace: db, pod: store-0}
- {cidr: 'fd00:18:2::/64', namespace: db, pod: store-0}
";

/// How long the server thinks before it answers the n-th request, and between the halves of its
/// answer: longer than TCP waits with its acknowledgment, each time another time.
fn think(n: u32) -> (Duration, Duration) {
    let n = u64::from(n);
    (
        Duration::from_millis(45 + 7 * n),
        Duration::from_millis(11 + 3 * n),
    )
}

/// Answers on one connection; returns how long each took, from the last byte read.
fn serve(listener: &TcpListener) -> Vec<Duration> {
    let (mut stream, _) = listener.accept().expect("a client");
    stream.set_nodelay(true).expect("no delay");
    let mut request = vec![0; REQUEST_BYTES];
    (0..REQUESTS)
        .map(|n| {
            stream.read_exact(&mut request).expect("a request");
            let begin = Instant::now();
            let (before, between) = think(n);
            // The server's work, not a wait for something.
            thread::sleep(before);
            stream.write_all(&[b'a'; ANSWER_BYTES / 2]).expect("answer");
            thread::sleep(between);
            let took = begin.elapsed();
            stream.write_all(&[b'b'; ANSWER_BYTES / 2]).expect("answer");
            took
        })
        .collect()
}

/// Asks on one connection; returns how long each request took, by the client's clock.
fn ask(to: SocketAddr) -> Vec<Duration> {
    let mut stream = TcpStream::connect(to).expect("a server");
    stream.set_nodelay(true).expect("no delay");
    let mut answer = vec![0; ANSWER_BYTES];
    (0..REQUESTS)
        .map(|_| {
            let begin = Instant::now();
            stream.write_all(&[b'q'; REQUEST_BYTES]).expect("ask");
            stream.read_exact(&mut answer).expect("an answer");
            begin.elapsed()
        })
        .collect()
}

/// Times of requests as the agent saw them at the pod that asks, in their order.
fn samples(watch: &Lpm, port: u16) -> Vec<Duration> {
    let mut times = Vec::new();
    while times.len() < REQUESTS as usize {
        let sample: Value = serde_json::from_str(&watch.line()).expect("JSON");
        if sample["method"] == "request" && sample["dport"] == port {
            assert_eq!(sample["leg"], "remote", "{sample}");
            assert_eq!(sample["dst_name"]["pod"], "store-0", "{sample}");
            let rtt = sample["rtt_ns"].as_u64().expect("a time");
            times.push(Duration::from_nanos(rtt));
        }
    }
    times
}

#[test]
fn a_request_takes_as_long_as_its_client_says() {
    if !kernel_is_usable() {
        return;
    }
    for timestamps in [true, false] {
        let pair = Pair::new(&PairConfig {
            timestamps,
            ..PairConfig::default()
        })
        .expect("a testbed");
        pair.set_delay(DELAY);
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name).display().to_string();
        fs::write(path("names.yaml"), NAMES).expect("names");
        let methods = "methods: [ts, seq, handshake, request]\n";
        let config = format!("names: names.yaml\nflows: 1024\nrows: 32\n{methods}");
        fs::write(path("lpm.yaml"), config).expect("a configuration");
        let file = path("lpm.yaml");
        let agent = Agent::start(&pair.node, &["-c", &file, "-i", Pair::POD_INTERFACE]);
        let arguments = ["watch", "--agent", &agent.url, "--format", "json"];
        let watch = Lpm::spawn(&pair.node, command().args(arguments));
        watch.wait_for("watching what the agent measures");
        for (port, address) in (5341..).zip(Pair::SERVER) {
            one_connection(&pair, &watch, address, port);
        }
        // Both connections, each request once, in the metric and nowhere else.
        let series = "lpm_request_seconds_count{namespace=\"shop\",peer_namespace=\"db\",\
                      peer_kind=\"pod\",leg=\"remote\"}";
        eventually(series, || {
            agent.value(series) == Some(f64::from(2 * REQUESTS))
        });
        let metrics = agent.metrics();
        assert!(metrics.contains("lpm_request_events_total{event=\"overlapping\"} 0"));
        agent.stop();
    }
}

fn one_connection(pair: &Pair, watch: &Lpm, address: IpAddr, port: u16) {
    let to = SocketAddr::new(address, port);
    let bind = || TcpListener::bind(to).expect("a listener");
    let listener = pair.server.run_in(bind).expect("a namespace");
    let server = thread::spawn(move || serve(&listener));
    let felt = pair.client.run_in(|| ask(to)).expect("a namespace");
    let took = server.join().expect("a server");
    let measured = samples(watch, port);
    for (n, ((measured, felt), took)) in measured.iter().zip(&felt).zip(&took).enumerate() {
        let least = *took + WIRE;
        assert!(
            least <= *measured && measured <= felt,
            "request {n}: {least:?} at least, {felt:?} felt, {measured:?} measured"
        );
    }
}
