//! The server of all kinds of traffic.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
    thread::JoinHandle,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::oneshot,
};

use super::preamble::{Checksum, PREAMBLE_BYTES, Preamble};
use crate::testbed::{Error, Netns};

/// A TCP server on all addresses of a namespace, IPv4 and IPv6, on a thread
/// of its own. It ends, with its connections, on drop.
#[derive(Debug)]
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens in `netns`; when this returns, clients can connect.
    pub fn start(netns: &Netns, port: u16) -> Result<Self, Error> {
        let listening = netns.run_in(|| Self::listen(port))?;
        listening.map_err(|source| Error::system(format!("cannot serve port {port}"), source))
    }

    /// Listens in the namespace of the calling thread.
    pub fn listen(port: u16) -> io::Result<Self> {
        let runtime = super::many::runtime()?;
        let listener = runtime.block_on(async {
            let socket = TcpSocket::new_v6()?;
            socket.set_reuseaddr(true)?;
            socket.bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
            socket.listen(4096)
        })?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("server".to_owned())
            .spawn(move || {
                let _ = nix::sys::prctl::set_timerslack(1);
                runtime.block_on(async {
                    tokio::select! {
                        () = accept(&listener) => {}
                        _ = stopped => {}
                    }
                });
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: &TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // A client that breaks off ends only its own connection.
                tokio::spawn(async move { drop(serve(stream).await) });
            }
            // Out of descriptors: others will be closed.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut preamble = [0; PREAMBLE_BYTES];
    stream.read_exact(&mut preamble).await?;
    match Preamble::decode(&preamble)? {
        Preamble::Sink { checksum } => sink(stream, checksum).await,
        Preamble::Respond {
            request,
            response,
            think,
        } => {
            let mut buffer = vec![0; request.max(response) as usize];
            loop {
                stream.read_exact(&mut buffer[..request as usize]).await?;
                if !think.is_zero() {
                    tokio::time::sleep(think).await;
                }
                stream.write_all(&buffer[..response as usize]).await?;
            }
        }
    }
}

async fn sink(mut stream: TcpStream, wanted: bool) -> io::Result<()> {
    let mut checksum = Checksum::new();
    let mut buffer = vec![0; 1 << 17];
    let mut total = 0_u64;
    loop {
        let bytes = stream.read(&mut buffer).await?;
        if bytes == 0 {
            break;
        }
        total += bytes as u64;
        if wanted {
            checksum.add(&buffer[..bytes]);
        }
    }
    stream.write_u64(total).await?;
    stream
        .write_u64(if wanted { checksum.value() } else { 0 })
        .await
}
