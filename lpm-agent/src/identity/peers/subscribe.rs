//! One agent listens to another.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Collected, Empty, Limited};
use hyper::{
    Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::HOST,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    sync::mpsc::Sender,
    time::{Instant, timeout},
};

use super::{
    LEASE, Line, PATH,
    line::SCHEMA,
    table::{PeerConnection, PeerMessage, Trouble},
};
use crate::backoff::Backoff;

/// First and longest pause after a failure.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(20));

/// An agent that is replaced is back within this time, and so long no pause is longer than a second.
const REPLACED: (Duration, Duration) = (Duration::from_mins(1), Duration::from_secs(1));

/// No line is longer: a node has some hundred pods.
const LONGEST: usize = 4 << 20;

/// How much is read of an answer that is a refusal.
const REASON: usize = 200;

/// Hears the agent of a node until nobody listens; what it says goes on under this number.
pub(crate) async fn subscribe(
    at: SocketAddr,
    node: Arc<str>,
    number: u64,
    to: Sender<(u64, PeerMessage)>,
) {
    let (mut pause, mut since) = (Backoff::new(PAUSE), Instant::now());
    loop {
        let mut heard = false;
        let Err(trouble) = listen((at, &node), number, &to, &mut heard).await;
        if heard {
            pause.reset();
            since = Instant::now();
        }
        if to
            .send((number, PeerMessage::Nothing(trouble)))
            .await
            .is_err()
        {
            return;
        }
        pause.wait().await;
        pause.cap(longest(since.elapsed()));
    }
}

/// The longest pause when an agent has not answered for this long.
fn longest(silent: Duration) -> Duration {
    if silent < REPLACED.0 {
        REPLACED.1
    } else {
        PAUSE.1
    }
}

async fn listen(
    (at, node): (SocketAddr, &Arc<str>),
    number: u64,
    to: &Sender<(u64, PeerMessage)>,
    heard: &mut bool,
) -> Result<Infallible, Trouble> {
    let unreachable = |error: &dyn std::fmt::Display| Trouble::Unreachable(error.to_string());
    let stream = timeout(LEASE, TcpStream::connect(at)).await;
    let stream = stream.map_err(|_| Trouble::Silent)?;
    let stream = TokioIo::new(stream.map_err(|error| unreachable(&error))?);
    let shaken = http1::handshake(stream).await;
    let (mut send, connection) = shaken.map_err(|error| unreachable(&error))?;
    let _connection = PeerConnection(tokio::spawn(connection).abort_handle());
    let request = Request::get(PATH).header(HOST, at.to_string());
    let request = request.body(Empty::<Bytes>::new());
    let request = request.map_err(|error| unreachable(&error))?;
    let answer = timeout(LEASE, send.send_request(request)).await;
    let answer = answer.map_err(|_| Trouble::Silent)?;
    let answer = answer.map_err(|error| unreachable(&error))?;
    if answer.status() != StatusCode::OK {
        return Err(refused(answer.status(), answer.into_body()).await);
    }
    let (mut body, mut lines) = (answer.into_body(), Lines::default());
    loop {
        let frame = timeout(LEASE, body.frame()).await;
        let frame = frame.map_err(|_| Trouble::Silent)?;
        let frame = frame.ok_or_else(|| Trouble::Unreachable("it has ended".to_owned()))?;
        let frame = frame.map_err(|error| unreachable(&error))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        for line in lines.take(&data)? {
            if line.node != *node {
                return Err(Trouble::Other(line.node));
            }
            *heard = true;
            if to.send((number, PeerMessage::Line(line))).await.is_err() {
                return Err(Trouble::Silent);
            }
        }
    }
}

/// What an agent says that does not answer.
async fn refused(status: StatusCode, body: Incoming) -> Trouble {
    let said = timeout(LEASE, Limited::new(body, REASON).collect()).await;
    let said = said.ok().and_then(Result::ok).map(Collected::to_bytes);
    let said = said.as_deref().unwrap_or_default();
    let said = String::from_utf8_lossy(said).trim().to_owned();
    Trouble::Refused(format!("{}: {said}", status.as_u16()))
}

/// Puts lines together of what comes in pieces.
#[derive(Debug, Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    fn take(&mut self, data: &[u8]) -> Result<Vec<Line>, Trouble> {
        let mut lines = Vec::new();
        let mut pieces = data.split(|byte| *byte == b'\n');
        let mut piece = pieces.next().unwrap_or_default();
        for next in pieces {
            self.begun.extend_from_slice(piece);
            lines.push(read(&self.begun)?);
            self.begun.clear();
            piece = next;
        }
        self.begun.extend_from_slice(piece);
        if self.begun.len() > LONGEST {
            return Err(Trouble::Unreadable("a line without end".to_owned()));
        }
        Ok(lines)
    }
}

fn read(text: &[u8]) -> Result<Line, Trouble> {
    let unreadable = |error: &dyn std::fmt::Display| Trouble::Unreadable(error.to_string());
    let line: Line = serde_json::from_slice(text).map_err(|error| unreadable(&error))?;
    if line.schema != SCHEMA {
        return Err(unreadable(&format!("its schema is {}", line.schema)));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_pieces() {
        let text = b"{\"schema\":1,\"node\":\"a\"}\n{\"schema\":1,\"node\":\"b\",\"all\":[]}\n";
        for cut in 0..text.len() {
            let mut lines = Lines::default();
            let mut found = lines.take(&text[..cut]).expect("a piece");
            found.extend(lines.take(&text[cut..]).expect("the rest"));
            let nodes: Vec<_> = found.iter().map(|line| &*line.node).collect();
            assert_eq!(nodes, ["a", "b"], "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_line_is_said_so() {
        for text in [&b"{\n"[..], b"{\"schema\":2,\"node\":\"a\"}\n", b"\n"] {
            let error = Lines::default().take(text).expect_err("no line");
            assert_eq!(error.reason(), "unreadable");
        }
        let endless = vec![b'x'; LONGEST + 1];
        assert!(Lines::default().take(&endless).is_err());
    }
}
