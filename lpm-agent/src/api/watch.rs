//! Serves the stream of samples as lines of JSON.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::{Body, Bytes},
    extract::State,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    Endless, Hub, Peer,
    router::unavailable,
    sample::{SCHEMA, SampleRecord},
    stream::Watcher,
    stream_limits::Streams,
};
use crate::{
    export::http::{HttpCounts, HttpRefusal},
    passive::clock::wall_clock,
};

/// Interval between lines to a watcher without samples. A line shows that both sides live.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Chunks of the stream that may wait for a slow client.
const CHUNKS: usize = 4;

/// Most samples in one chunk.
const BATCH: usize = 128;

/// What the samples are served from.
#[derive(Clone, Debug)]
struct Served {
    hub: Arc<Hub>,
    streams: Arc<Streams>,
    counts: Arc<HttpCounts>,
}

/// Makes the router of `/watch`.
pub(super) fn router(hub: Arc<Hub>, counts: Arc<HttpCounts>) -> Router {
    let streams = Arc::default();
    let served = Served {
        hub,
        streams,
        counts,
    };
    Router::new().route("/watch", get(watch)).with_state(served)
}

/// One line of the stream `/api/v1/watch`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StreamLine {
    /// A sample.
    Sample(Box<SampleRecord>),
    /// Sent every second: how many samples this watcher did not get so far.
    Missed {
        /// Version of the records: [`SCHEMA`].
        schema: u32,
        /// Number of samples missed.
        missed: u64,
    },
}

async fn watch(State(served): State<Served>, Extension(peer): Extension<Peer>) -> Response {
    let Some(place) = served.streams.open(&peer) else {
        served.counts.refuse(HttpRefusal::Streams);
        return unavailable("too many clients watch samples: end one, or ask again later\n");
    };
    let (sender, chunks) = mpsc::channel(CHUNKS);
    let watcher = served.hub.watch();
    tokio::spawn(async move {
        send_samples(watcher, sender).await;
        drop(place);
    });
    let body = Body::from_stream(ReceiverStream::new(chunks));
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (Extension(Endless), kind, body).into_response()
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
                line(&StreamLine::Missed { schema: SCHEMA, missed })
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
