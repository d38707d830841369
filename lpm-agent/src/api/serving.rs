//! All listeners of an agent, from binding to the end.

use std::{net::SocketAddr, sync::Arc};

use tokio::task::JoinSet;

use super::{
    Admission, App, Door, Limits, LocalServer, Purpose, ServeError, Server, SocketError,
    router::{Routes, health, routes},
};
use crate::{
    config::{Enabled, Socket},
    kernel::own,
};

/// The bound ports of an agent, which do not serve yet.
#[derive(Debug)]
pub struct Listeners {
    server: Server,
    health: Option<Server>,
    metrics: Option<Server>,
    /// The Unix socket. None: it is not wanted. An error: it cannot be made, and need not be.
    local: Result<Option<LocalServer>, SocketError>,
    limits: Limits,
}

impl Listeners {
    /// Binds the port for all clients, those for health checks and for metrics only, and the Unix
    /// socket. Raises the limit of open files. Call it in a runtime.
    pub fn bind(
        listen: SocketAddr,
        health: Option<SocketAddr>,
        metrics: Option<SocketAddr>,
        socket: &Socket,
    ) -> Result<Self, ServeError> {
        let health = health.map(|address| Server::bind(address, Purpose::Health));
        let metrics = metrics.map(|address| Server::bind(address, Purpose::Everybody));
        Ok(Self {
            server: Server::bind(listen, Purpose::Everybody)?,
            health: health.transpose()?,
            metrics: metrics.transpose()?,
            local: local(socket)?,
            limits: Limits::within(own::raise_open_files()),
        })
    }

    /// Starts to serve. Call it in a runtime.
    #[must_use]
    pub fn serve(self, app: App) -> Serving {
        let (limits, counts) = (self.limits, Arc::clone(&app.counts));
        let nodes = Arc::clone(&app.nodes);
        let admission = Admission::new(limits.shares, nodes, Arc::clone(&counts));
        let mut accepting = JoinSet::new();
        if let Some(server) = self.health {
            tracing::info!("health checks at http://{}/healthz", server.address());
            let routes = health(Arc::clone(&app.ready));
            let door = Door::new(routes, limits, Arc::clone(&counts));
            accepting.spawn(server.serve(door, Arc::clone(&admission)));
        }
        let access = Arc::clone(&app.access);
        let scheme = if access.tls().is_some() {
            "https"
        } else {
            "http"
        };
        tracing::info!("metrics at {scheme}://{}/metrics", self.server.address());
        let Routes { all, metrics } = routes(app);
        if let Some(server) = self.metrics {
            tracing::info!("metrics also at {scheme}://{}/metrics", server.address());
            let door = Door::new(metrics, limits, Arc::clone(&counts));
            let server = server.secured(Arc::clone(&access));
            accepting.spawn(server.serve(door, Arc::clone(&admission)));
        }
        let door = Door::new(all, limits, counts);
        match self.local {
            Ok(None) => {}
            Ok(Some(local)) => {
                accepting.spawn(local.serve(Arc::clone(&door), Arc::clone(&admission)));
            }
            Err(error) => tracing::warn!("the API is served by TCP only: {error}"),
        }
        let server = self.server.secured(access);
        accepting.spawn(server.serve(Arc::clone(&door), admission));
        Serving { accepting, door }
    }
}

/// Binds the Unix socket. The inner error says why there is none, where there need not be one.
fn local(socket: &Socket) -> Result<Result<Option<LocalServer>, SocketError>, SocketError> {
    match socket.enabled {
        Enabled::Always(false) => Ok(Ok(None)),
        Enabled::Always(true) => Ok(Ok(Some(LocalServer::bind(socket)?))),
        Enabled::Auto => Ok(LocalServer::bind(socket).map(Some)),
    }
}

/// The ports of an agent, which serve until they are dropped.
#[derive(Debug)]
pub struct Serving {
    accepting: JoinSet<()>,
    door: Arc<Door>,
}

impl Serving {
    /// Closes the ports. Streams are cut off, and other responses may still be read.
    pub async fn end(mut self) {
        self.accepting.shutdown().await;
        self.door.end();
    }
}
