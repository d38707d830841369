//! All listeners of an agent, from binding to the end.

use std::{net::SocketAddr, sync::Arc};

use tokio::task::JoinSet;

use super::{
    Admission, App, Door, Limits, Purpose, ServeError, Server,
    router::{health, router},
};
use crate::kernel::own;

/// The bound ports of an agent, which do not serve yet.
#[derive(Debug)]
pub struct Listeners {
    server: Server,
    health: Option<Server>,
    limits: Limits,
}

impl Listeners {
    /// Binds the port for all clients, and the one for health checks. Raises the limit of open
    /// files. Call it in a runtime.
    pub fn bind(listen: SocketAddr, health: Option<SocketAddr>) -> Result<Self, ServeError> {
        let health = health.map(|address| Server::bind(address, Purpose::Health));
        Ok(Self {
            server: Server::bind(listen, Purpose::Everybody)?,
            health: health.transpose()?,
            limits: Limits::within(own::raise_open_files()),
        })
    }

    /// Starts to serve. Call it in a runtime.
    #[must_use]
    pub fn serve(self, app: App) -> Serving {
        let (limits, counts) = (self.limits, Arc::clone(&app.counts));
        let nodes = Arc::clone(app.hub.model().registry().board());
        let admission = Admission::new(limits.shares, nodes, Arc::clone(&counts));
        let mut accepting = JoinSet::new();
        if let Some(server) = self.health {
            tracing::info!("health checks at http://{}/healthz", server.address());
            let routes = health(Arc::clone(&app.ready));
            let door = Door::new(routes, limits, Arc::clone(&counts));
            accepting.spawn(server.serve(door, Arc::clone(&admission)));
        }
        tracing::info!("metrics at http://{}/metrics", self.server.address());
        let door = Door::new(router(app), limits, counts);
        accepting.spawn(self.server.serve(Arc::clone(&door), admission));
        Serving { accepting, door }
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
