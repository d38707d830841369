//! Clients that come by real connections, and what becomes of them.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use axum::{Extension, routing::get};
use futures_util::{StreamExt as _, stream};
use tokio::runtime::Runtime;

use super::*;
use crate::api::{Admission, Purpose, Server};

/// A server with short times. Dropping it ends it.
struct Served {
    runtime: Runtime,
    door: Arc<Door>,
    at: SocketAddr,
}

impl Served {
    fn new(change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = Limits::within(1 << 16);
        // Far longer than any test lasts, unless the test is about it.
        let long = Duration::from_mins(10);
        (limits.header, limits.idle) = (long, long);
        (limits.unread, limits.response) = (long, long);
        change(&mut limits);
        let runtime = Runtime::new().expect("a runtime");
        let counts = Arc::<HttpCounts>::default();
        let door = Door::new(routes(), limits, Arc::clone(&counts));
        let entered = runtime.enter();
        let server = Server::bind((Ipv4Addr::LOCALHOST, 0).into(), Purpose::Everybody);
        let server = server.expect("bind");
        let at = server.address();
        let admission = Admission::new(limits.shares, Arc::default(), counts);
        runtime.spawn(server.serve(Arc::clone(&door), admission));
        drop(entered);
        Self { runtime, door, at }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.at).expect("connect");
        let limit = Some(Duration::from_mins(1));
        stream.set_read_timeout(limit).expect("a limit");
        stream
    }

    fn ask(&self, path: &str) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(&request(path)).expect("send");
        stream
    }

    fn refused(&self, why: HttpRefusal) -> u64 {
        self.door.counts().refused(why)
    }

    #[track_caller]
    fn wait_for(&self, why: HttpRefusal) {
        let begun = Instant::now();
        while self.refused(why) == 0 {
            assert!(begun.elapsed() < Duration::from_mins(1), "{why:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Bytes that come one by one, every few milliseconds, without end.
fn trickle() -> Body {
    let bytes = stream::repeat(()).then(|()| async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok::<_, Infallible>(Bytes::from_static(b"x"))
    });
    Body::from_stream(bytes)
}

fn routes() -> Router {
    Router::new()
        .route("/", get(|| async { "hello\n" }))
        .route(
            "/peer",
            get(|Extension(peer): Extension<Peer>| async move { format!("{peer:?}") }),
        )
        .route("/large", get(|| async { vec![b'x'; 64 << 20] }))
        .route("/trickle", get(|| async { trickle() }))
        .route("/stream", get(|| async { (Extension(Endless), trickle()) }))
}

fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").into_bytes()
}

/// All that comes until the connection ends.
fn rest(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    if let Err(error) = stream.read_to_end(&mut all) {
        // An end by reset is an end.
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// Reads one response to `/`.
fn hello(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let mut byte = [0];
    while !all.ends_with(b"hello\n") {
        assert_eq!(stream.read(&mut byte).expect("a response"), 1, "it ended");
        all.push(byte[0]);
    }
    String::from_utf8(all).expect("text")
}

const SHORT: Duration = Duration::from_millis(100);

#[test]
fn a_client_that_sends_nothing_is_cut_off() {
    let served = Served::new(|limits| limits.header = SHORT);
    assert_eq!(rest(&mut served.connect()), "");
    assert_eq!(served.refused(HttpRefusal::Header), 1);
}

#[test]
fn a_client_that_sends_a_header_byte_by_byte_is_cut_off() {
    let served = Served::new(|limits| limits.header = SHORT);
    let mut slow = served.connect();
    slow.write_all(b"GET / HTTP/1.1\r\nx: ").expect("send");
    while slow.write_all(b"y").is_ok() {
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(served.refused(HttpRefusal::Header), 1);
}

#[test]
fn between_two_requests_there_is_more_time_than_for_a_header() {
    let served = Served::new(|limits| (limits.header, limits.idle) = (SHORT, 5 * SHORT));
    let mut stream = served.ask("/");
    assert!(hello(&mut stream).contains(" 200 "));
    // Longer than a header may take: what is waited for here is the time itself.
    thread::sleep(2 * SHORT);
    stream.write_all(&request("/")).expect("send");
    assert!(hello(&mut stream).contains(" 200 "));
    assert_eq!(rest(&mut stream), "", "idle for too long");
    assert_eq!(served.refused(HttpRefusal::Header), 0, "nobody's fault");
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let served = Served::new(|limits| limits.unread = SHORT);
    let _deaf = [served.ask("/large"), served.ask("/stream")];
    served.wait_for(HttpRefusal::Unread);
    assert_eq!(served.refused(HttpRefusal::Slow), 0);
}

#[test]
fn a_response_ends_in_time_unless_it_is_a_stream() {
    let served = Served::new(|limits| limits.response = SHORT);
    let mut stream = served.ask("/stream");
    let mut slow = served.ask("/trickle");
    assert!(rest(&mut slow).contains("\r\nx\r\n"));
    assert_eq!(served.refused(HttpRefusal::Slow), 1);
    let mut piece = [0; 16];
    for _ in 0..50 {
        assert!(stream.read(&mut piece).expect("it goes on") > 0);
    }
}

#[test]
fn a_request_with_a_body_is_refused() {
    let served = Served::new(|_| {});
    for body in ["content-length: 99999999", "transfer-encoding: chunked"] {
        let mut stream = served.connect();
        let head = format!("GET / HTTP/1.1\r\nhost: x\r\n{body}\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("send");
        let answer = rest(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 413 "), "{body}: {answer}");
    }
    assert_eq!(served.refused(HttpRefusal::Body), 2);
}

#[test]
fn a_connection_ends_after_so_many_requests() {
    let served = Served::new(|limits| limits.requests = 3);
    let mut stream = served.connect();
    stream.write_all(&request("/").repeat(10)).expect("send");
    let all = rest(&mut stream);
    assert_eq!(all.matches("hello\n").count(), 3, "{all}");
    assert_eq!(all.matches("connection: close").count(), 1, "{all}");
}

#[test]
fn a_header_that_is_too_large_is_refused() {
    let served = Served::new(|_| {});
    let mut stream = served.connect();
    let line = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    // It may be refused before all of it was sent.
    let _ = stream.write_all(line.as_bytes());
    let answer = rest(&mut stream);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
        "{answer}"
    );
}

#[test]
fn a_request_bears_its_peer() {
    let served = Served::new(|limits| limits.requests = 1);
    let mut stream = served.ask("/peer");
    let own = stream.local_addr().expect("an address");
    let answer = rest(&mut stream);
    assert!(answer.ends_with(&format!("Tcp({own})")), "{answer}");
}

#[test]
fn the_end_ends_streams_and_idle_connections() {
    let served = Served::new(|_| {});
    let mut stream = served.ask("/stream");
    let mut first = [0; 16];
    assert!(stream.read(&mut first).expect("it began") > 0);
    let mut idle = served.ask("/");
    hello(&mut idle);
    served.door.end();
    let _ = rest(&mut stream);
    assert_eq!(rest(&mut idle), "");
    drop(served.runtime);
}
