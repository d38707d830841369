//! Serves the names of this node's pods to the agents of other nodes.
//!
//! Besides `/metrics`, `/healthz` and `/readyz`, this is the only path that is open to other
//! machines, where `identity.kubernetes.scope` is `node`. It answers the addresses of the cluster's
//! nodes only.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Extension, Router,
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::StreamExt as _;

use super::Endless;
use crate::identity::peers::{NamePublisher, PATH, Refusal};

/// Makes the router that serves [`PATH`]. [`access`](super::access) decides who may ask.
pub fn router(publisher: Arc<NamePublisher>) -> Router {
    Router::new().route(PATH, get(names)).with_state(publisher)
}

async fn names(State(publisher): State<Arc<NamePublisher>>) -> Response {
    let lines = publisher.listen();
    match lines {
        Ok(lines) => {
            let body = Body::from_stream(lines.map(Ok::<_, Infallible>));
            let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
            (Extension(Endless), kind, body).into_response()
        }
        Err(refusal) => (status(refusal), format!("{refusal}\n")).into_response(),
    }
}

fn status(refusal: Refusal) -> StatusCode {
    match refusal {
        Refusal::Stranger => StatusCode::FORBIDDEN,
        Refusal::Closed => StatusCode::NOT_FOUND,
        Refusal::NotYet | Refusal::Full => StatusCode::SERVICE_UNAVAILABLE,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Read as _, Write as _},
        net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
        time::Duration,
    };

    use tokio::runtime::Runtime;

    use super::*;
    use crate::api::{Admission, Door, Limits, Purpose, Server};

    /// A publisher that answers this machine at an address, as long as the runtime is kept.
    fn serving() -> (Runtime, Arc<NamePublisher>, SocketAddr) {
        let (runtime, publisher) = (
            Runtime::new().expect("a runtime"),
            Arc::<NamePublisher>::default(),
        );
        publisher.open("n1".into());
        publisher.set_whole(true);
        let here = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        let address = {
            let _entered = runtime.enter();
            let server = Server::bind(here, Purpose::Everybody).expect("bind");
            let (address, limits) = (server.address(), Limits::within(1024));
            let admission = Admission::new(limits.shares, Arc::clone(&publisher), Arc::default());
            let door = Door::new(router(Arc::clone(&publisher)), limits, Arc::default());
            runtime.spawn(server.serve(door, admission));
            address
        };
        (runtime, publisher, address)
    }

    fn connect(to: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(to).expect("connect");
        let limit = Some(Duration::from_mins(1));
        stream.set_read_timeout(limit).expect("a limit");
        stream
    }

    /// The first line of the answer to the bytes sent.
    fn answer(to: SocketAddr, sent: &[u8]) -> String {
        let mut stream = connect(to);
        // The request may be refused before all of it was sent.
        let _ = stream.write_all(sent);
        let mut line = String::new();
        // Unread bytes make the connection end with a reset.
        let _ = BufReader::new(stream).read_line(&mut line);
        line
    }

    #[test]
    fn what_is_no_question_is_refused() {
        let (_runtime, _publisher, address) = serving();
        let head = |method: &str, path: &str, more: &str| {
            format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{more}\r\n").into_bytes()
        };
        let long = format!("x-long: {}\r\n", "x".repeat(1 << 20));
        for (sent, status) in [
            (head("GET", PATH, ""), "200"),
            (head("POST", PATH, "content-length: 0\r\n"), "405"),
            (head("GET", "/api/v1/names/x", ""), "404"),
            (head("GET", "/api/v1/flows", ""), "404"),
            (b"\x16\x03\x01\x02\x00\r\n\r\n".to_vec(), "400"),
            (head("GET", PATH, &long), "431"),
        ] {
            let said = answer(address, &sent);
            let sent = String::from_utf8_lossy(&sent[..sent.len().min(60)]).into_owned();
            assert!(said.contains(status), "{sent}: {said}");
        }
    }

    /// A slow client delays only itself. Neither a request that never ends, nor a body that nobody
    /// asked for, nor a client that does not read keeps names from others.
    #[test]
    fn whoever_is_slow_waits_alone() {
        let (_runtime, publisher, address) = serving();
        let mut endless = connect(address);
        endless.write_all(b"GET /api/v1/na").expect("send");
        let mut body = connect(address);
        let head = format!("GET {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n");
        body.write_all(head.as_bytes()).expect("send");
        let mut deaf = connect(address);
        let question = format!("GET {PATH} HTTP/1.1\r\nhost: x\r\n\r\n");
        deaf.write_all(question.as_bytes()).expect("send");
        let mut quick = connect(address);
        quick.write_all(question.as_bytes()).expect("send");
        let mut piece = [0; 4096];
        for _ in 0..50 {
            publisher.alive();
            assert!(quick.read(&mut piece).expect("it hears") > 0);
        }
    }
}
