//! Calls another agent and listens to it.

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

use super::{LEASE, MeshLine, PeerConnection, Trouble, lines::Lines};
use crate::backoff::{Backoff, Pauses};

/// Pauses after failures.
const PAUSES: Pauses = Pauses {
    first: Duration::from_millis(250),
    longest: Duration::from_secs(20),
};

/// Time within which an agent that is replaced is back.
const REPLACED: Duration = Duration::from_mins(1);

/// Longest pause within [`REPLACED`].
const REPLACED_PAUSE: Duration = Duration::from_secs(1);

/// Most bytes that are read of a refusal.
const REASON: usize = 200;

/// A stream of an agent.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Address at which the agent listens.
    pub(crate) at: SocketAddr,
    /// Node of the agent. Lines of another node's agent are refused.
    pub(crate) node: Arc<str>,
    /// HTTP path of the stream.
    pub(crate) path: &'static str,
}

/// Listens to an agent until the receiver of messages has gone. `wrap` makes a message of each line
/// and of each failure. After a failure the agent is called again, with growing pauses.
pub(crate) async fn subscribe<L: MeshLine, M>(
    target: Target,
    to: Sender<M>,
    wrap: impl Fn(Result<L, Trouble>) -> M,
) {
    let (mut pause, mut since) = (Backoff::new(PAUSES), Instant::now());
    loop {
        let mut heard = false;
        let Err(trouble) = listen(&target, &to, &wrap, &mut heard).await;
        if heard {
            pause.reset();
            since = Instant::now();
        }
        if to.send(wrap(Err(trouble))).await.is_err() {
            return;
        }
        pause.wait().await;
        pause.cap(longest(since.elapsed()));
    }
}

/// The longest pause when an agent has not answered for this long.
fn longest(silent: Duration) -> Duration {
    if silent < REPLACED {
        REPLACED_PAUSE
    } else {
        PAUSES.longest
    }
}

/// Listens to an agent until the stream breaks, or the receiver of messages has gone.
async fn listen<L: MeshLine, M>(
    target: &Target,
    to: &Sender<M>,
    wrap: &impl Fn(Result<L, Trouble>) -> M,
    heard: &mut bool,
) -> Result<Infallible, Trouble> {
    let Target { at, node, path } = target;
    let unreachable = |error: &dyn std::fmt::Display| Trouble::Unreachable(error.to_string());
    let stream = timeout(LEASE, TcpStream::connect(*at)).await;
    let stream = stream.map_err(|_| Trouble::Silent)?;
    let stream = TokioIo::new(stream.map_err(|error| unreachable(&error))?);
    let shaken = http1::handshake(stream).await;
    let (mut send, connection) = shaken.map_err(|error| unreachable(&error))?;
    let _connection = PeerConnection(tokio::spawn(connection).abort_handle());
    let request = Request::get(*path).header(HOST, at.to_string());
    let request = request.body(Empty::<Bytes>::new());
    let request = request.map_err(|error| unreachable(&error))?;
    let answer = timeout(LEASE, send.send_request(request)).await;
    let answer = answer.map_err(|_| Trouble::Silent)?;
    let answer = answer.map_err(|error| unreachable(&error))?;
    if answer.status() != StatusCode::OK {
        return Err(refused(answer.status(), answer.into_body()).await);
    }
    let (mut body, mut lines) = (answer.into_body(), Lines::<L>::default());
    loop {
        let frame = timeout(LEASE, body.frame()).await;
        let frame = frame.map_err(|_| Trouble::Silent)?;
        let frame =
            frame.ok_or_else(|| Trouble::Unreachable("it has closed the connection".to_owned()))?;
        let frame = frame.map_err(|error| unreachable(&error))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        for line in lines.take(&data)? {
            if line.node() != node {
                return Err(Trouble::Other(Arc::clone(line.node())));
            }
            *heard = true;
            if to.send(wrap(Ok(line))).await.is_err() {
                return Err(Trouble::Silent);
            }
        }
    }
}

/// Reads the answer of an agent that refuses.
async fn refused(status: StatusCode, body: Incoming) -> Trouble {
    let said = timeout(LEASE, Limited::new(body, REASON).collect()).await;
    let said = said.ok().and_then(Result::ok).map(Collected::to_bytes);
    let said = said.as_deref().unwrap_or_default();
    let said = String::from_utf8_lossy(said).trim().to_owned();
    Trouble::Refused(format!("{}: {said}", status.as_u16()))
}
