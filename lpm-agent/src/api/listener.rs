//! The port that the API listens on.

use std::{io, net::SocketAddr};

use axum::Router;
use thiserror::Error;
use tokio::net::TcpListener;

/// Why the server could not be started.
#[derive(Debug, Error)]
pub enum ServeError {
    /// Another program listens at the address.
    #[error(
        "the address {address} is taken: another agent or another program listens there (`ss \
         -ltnp` shows which); stop it, or give another address with --listen or the key `listen`"
    )]
    Taken {
        /// The address.
        address: SocketAddr,
    },
    /// The address cannot be bound for another reason.
    #[error(
        "cannot listen on {address}: {source}; give an address of this machine with --listen or \
         the key `listen`; ports below 1024 need root or CAP_NET_BIND_SERVICE"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A bound port that does not serve yet. It is bound early, so that a taken port is found before
/// any program is loaded.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Binds the address.
    pub async fn bind(address: SocketAddr) -> Result<Self, ServeError> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| match source.kind() {
                io::ErrorKind::AddrInUse => ServeError::Taken { address },
                _ => ServeError::Bind { address, source },
            })?;
        let address = listener.local_addr().unwrap_or(address);
        Ok(Self { listener, address })
    }

    /// The address that the port is bound to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves the routes until `end` completes. Then streams are cut off.
    ///
    /// # Errors
    /// The listening socket fails.
    pub async fn serve(
        self,
        router: Router,
        end: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        tokio::select! {
            served = axum::serve(self.listener, service).into_future() => served,
            () = end => Ok(()),
        }
    }
}
