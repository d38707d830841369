//! Serves flows, latencies by pairs of namespaces, links, and the agent's own probes as JSON.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Query, State},
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};
use tokio::{sync::Semaphore, time::timeout};

use super::{
    Hub, json,
    pieces::{Pieces, PiecesBody},
    probes,
    router::{blocking, busy, failed},
    sample::SCHEMA,
};
use crate::{
    active::agent::figures::Figures, export::http::HttpCounts, identity::processes::Sockets,
};

/// Lists that are made, or read by their clients, at the same time.
const AT_ONCE: usize = 4;

/// Time for which a client waits until it is its turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the lists are served from.
#[derive(Clone, Debug)]
struct Served {
    turns: Arc<Semaphore>,
    counts: Arc<HttpCounts>,
    /// None: the agent does not probe.
    probes: Option<Arc<Figures>>,
}

/// What is served with the model.
type Measured = (Served, Arc<Hub>);

/// Makes the router of `/probes` and `/diagnosis`, and with a model of `/flows`, `/latency` and `/links`.
pub(super) fn router(
    hub: Option<&Arc<Hub>>,
    counts: &Arc<HttpCounts>,
    probes: Option<Arc<Figures>>,
) -> Router {
    let served = Served {
        turns: Arc::new(Semaphore::new(AT_ONCE)),
        counts: Arc::clone(counts),
        probes,
    };
    let routes = Router::new()
        .route("/probes", get(own_probes))
        .route("/diagnosis", get(diagnosis))
        .with_state(served.clone());
    let Some(hub) = hub else {
        return routes;
    };
    let measured = Router::new()
        .route("/flows", get(flows))
        .route("/latency", get(latency))
        .route("/links", get(links))
        .with_state((served, Arc::clone(hub)));
    routes.merge(measured)
}

/// Why a client gets no list.
#[derive(Debug, thiserror::Error)]
enum ListError {
    #[error("the agent is busy with other lists: ask again in a second")]
    Busy,
    #[error("the list cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl Served {
    /// Answers with the list that this makes, when it is the client's turn. The turn ends once the
    /// client has read the list.
    async fn list<T: Serialize, E: std::error::Error + Send + 'static>(
        self,
        make: impl FnOnce() -> Result<Vec<T>, E> + Send + 'static,
    ) -> Response {
        let turn = timeout(PATIENCE, Arc::clone(&self.turns).acquire_owned()).await;
        // The semaphore is never closed.
        let Some(turn) = turn.ok().and_then(Result::ok) else {
            return busy(&ListError::Busy, &self.counts);
        };
        // The turn goes along, so it lasts as long as the work, even if the client leaves.
        let listed = blocking(move || {
            let items = make()?;
            let json = serde_json::to_vec(&Page::of(items)).map_err(ListError::Json);
            Ok::<_, E>((json.map(|json| Pieces::new(&json)), turn))
        });
        match listed.await {
            Ok((Ok(pieces), turn)) => {
                let body = PiecesBody::body(Arc::new(pieces), self.counts, Some(turn));
                ([(header::CONTENT_TYPE, "application/json")], body).into_response()
            }
            Ok((Err(error), _)) => failed(&error),
            Err(error) => failed(&error),
        }
    }
}

/// Query parameters of `/api/v1/flows`.
#[derive(Debug, Deserialize)]
struct FlowsQuery {
    /// True: include idle and closed flows.
    #[serde(default)]
    all: bool,
    /// True: include the processes that hold the sockets. It takes a walk through `/proc`.
    #[serde(default)]
    processes: bool,
}

/// A list as the API serves it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Page<T> {
    /// Version of the records: [`SCHEMA`].
    pub schema: u32,
    /// The records.
    pub items: Vec<T>,
}

impl<T> Page<T> {
    fn of(items: Vec<T>) -> Self {
        Self {
            schema: SCHEMA,
            items,
        }
    }
}

async fn flows(State((served, hub)): State<Measured>, Query(query): Query<FlowsQuery>) -> Response {
    served
        .list(move || {
            let sockets = query.processes.then(Sockets::scan);
            let mut flows = json::flows(hub.model(), sockets.as_ref())?;
            flows.retain(|flow| query.all || flow.active);
            Ok::<_, io::Error>(flows)
        })
        .await
}

async fn latency(State((served, hub)): State<Measured>) -> Response {
    served
        .list(move || Ok::<_, Infallible>(json::latencies(hub.model())))
        .await
}

async fn own_probes(State(served): State<Served>) -> Response {
    let figures = served.probes.clone();
    served
        .list(move || {
            let records = figures.map(|figures| probes::records(&figures));
            Ok::<_, Infallible>(records.unwrap_or_default())
        })
        .await
}

async fn diagnosis(State(served): State<Served>) -> Response {
    let figures = served.probes.clone();
    served
        .list(move || {
            let records = figures.map(|figures| probes::links(&figures));
            Ok::<_, Infallible>(records.unwrap_or_default())
        })
        .await
}

async fn links(State((served, hub)): State<Measured>) -> Response {
    served
        .list(move || {
            let model = hub.model();
            json::flows(model, None).map(|flows| json::links(model, &flows))
        })
        .await
}
