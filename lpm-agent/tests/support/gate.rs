//! A way to the API server that a test can close, or hold up.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
};

/// Forwards connections while it is open.
pub(crate) struct Gate {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Nothing is held up any more.
    released: Condvar,
}

#[derive(Default)]
struct State {
    closed: bool,
    held: bool,
    streams: Vec<TcpStream>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    fn wait_while_held(&self) {
        let waited = self.released.wait_while(self.lock(), |state| state.held);
        drop(waited.expect("not poisoned"));
    }

    /// Copies until either end is shut.
    fn forward(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut bytes = [0; 16384];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            self.wait_while_held();
            if to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        // It may be shut already.
        let _ = to.shutdown(Shutdown::Both);
    }
}

impl Gate {
    /// An open one to a server.
    pub(crate) fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::<Shared>::default();
        let its = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let mut state = its.lock();
                // Closed, or the server is not there: the client's connection is dropped.
                if state.closed {
                    continue;
                }
                let Ok(server) = TcpStream::connect(server) else {
                    continue;
                };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let from = from.try_clone().expect("clone");
                    let to = to.try_clone().expect("clone");
                    let its = Arc::clone(&its);
                    thread::spawn(move || its.forward(from, to));
                }
                state.streams.extend([client, server]);
            }
        });
        Self { address, shared }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends all connections, and lets no more through.
    pub(crate) fn close(&self) {
        let mut state = self.shared.lock();
        state.closed = true;
        for stream in state.streams.drain(..) {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn open(&self) {
        self.shared.lock().closed = false;
    }

    /// Connections stay, and nothing passes.
    pub(crate) fn hold(&self) {
        self.shared.lock().held = true;
    }

    /// What was held up passes now.
    pub(crate) fn release(&self) {
        self.shared.lock().held = false;
        self.shared.released.notify_all();
    }
}
