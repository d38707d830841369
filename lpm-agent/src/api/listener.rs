//! The ports that the API listens on.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use nix::sys::socket::{setsockopt, sockopt};
use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::{
    Access, Peer, admission::Admission, auth::Evidence, door::Door, tls, unix::SocketError,
};
use crate::export::http::HttpRefusal;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Bytes that the kernel keeps for a client that does not read, and of what a client sends. The
/// kernel doubles them for its own use (socket(7)).
const SOCKET_BUFFER: u32 = 128 << 10;

/// Milliseconds after which the kernel ends a connection whose client confirms nothing. So a client
/// that is gone without a word is found even if little is sent to it.
const UNCONFIRMED: u32 = 20_000;

/// Pause of accepting where the process has no descriptor left.
const NO_DESCRIPTOR: Duration = Duration::from_millis(100);

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
    /// The Unix socket cannot be made, and the configuration asks for it.
    #[error(transparent)]
    Socket(#[from] SocketError),
}

/// Whom a port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// All clients.
    Everybody,
    /// Health checks, which have connections of their own.
    Health,
}

/// A bound port that does not serve yet. It is bound early, so that a taken port is found before
/// any program is loaded.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    purpose: Purpose,
    /// Knows the settings of TLS. None: plain HTTP.
    access: Option<Arc<Access>>,
}

impl Server {
    /// Binds the address. Call it in a runtime.
    pub fn bind(address: SocketAddr, purpose: Purpose) -> Result<Self, ServeError> {
        let listener = listen(address).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => ServeError::Taken { address },
            _ => ServeError::Bind { address, source },
        })?;
        Ok(Self::new(listener, address, purpose))
    }

    /// Takes over a socket that already listens. Call it in a runtime.
    ///
    /// # Errors
    /// The socket cannot be made one that does not block.
    pub fn over(listener: std::net::TcpListener, purpose: Purpose) -> io::Result<Self> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        Ok(Self::new(listener, address, purpose))
    }

    fn new(listener: TcpListener, address: SocketAddr, purpose: Purpose) -> Self {
        let address = listener.local_addr().unwrap_or(address);
        Self {
            listener,
            address,
            purpose,
            access: None,
        }
    }

    /// Speaks TLS if the web configuration asks for it. Each new connection gets the settings that are
    /// in force then.
    #[must_use]
    pub fn secured(mut self, access: Arc<Access>) -> Self {
        self.access = Some(access);
        self
    }

    /// The address that the port is bound to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves the connections that are admitted, and closes the others at once. It ends when it is
    /// dropped, and leaves the connections to the door.
    pub async fn serve(self, door: Arc<Door>, admission: Arc<Admission>) {
        loop {
            let (stream, client) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    missed(&error, &door).await;
                    continue;
                }
            };
            let peer = Peer::Tcp(client);
            let place = match self.purpose {
                Purpose::Everybody => admission.admit(&peer),
                Purpose::Health => admission.admit_check(),
            };
            if let Some(place) = place {
                let (door, stream) = (Arc::clone(&door), prompt(stream));
                let tls = self.access.as_ref().and_then(|access| access.tls());
                tokio::spawn(async move {
                    match tls {
                        Some(config) => tls::serve(config, stream, peer, place, &door).await,
                        None => door.serve(stream, peer, Evidence::default(), place).await,
                    }
                });
            }
        }
    }
}

/// Binds a socket whose connections keep little in the kernel.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    // Connections have these from the socket that they are accepted from.
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    setsockopt(&socket, sockopt::TcpUserTimeout, &UNCONFIRMED)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Lets small pieces of a stream go out at once.
fn prompt(stream: TcpStream) -> TcpStream {
    // Without it, the stream works as well, only later.
    let _ = stream.set_nodelay(true);
    stream
}

/// Waits where accepting fails for want of descriptors. Other errors are those of one connection.
pub(super) async fn missed(error: &io::Error, door: &Door) {
    let errors = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    if error
        .raw_os_error()
        .is_some_and(|code| errors.contains(&code))
    {
        door.counts().refuse(HttpRefusal::Descriptors);
        tracing::error!("cannot accept a connection: {error}");
        tokio::time::sleep(NO_DESCRIPTOR).await;
    }
}
