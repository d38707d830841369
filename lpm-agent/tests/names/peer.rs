//! Agents of several nodes, each at a loopback address of its own.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener},
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use axum::middleware;
use lpm_agent::{
    api::{Access, Admission, Door, Limits, Purpose, Server, access::guard, names},
    config::Config,
    identity::{kubernetes::OfNode, peers::NamePublisher, permits::Permits},
};
use tokio::runtime::Runtime;

use crate::follower::Follower;

/// A port that all agents of a test can have.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.local_addr().expect("an address").port()
}

/// The address of a node: each its own.
pub(crate) fn node_address(number: u8) -> IpAddr {
    [127, 0, 90, number].into()
}

/// An agent that follows its own node's pods, without a kernel.
pub(crate) struct Agent {
    pub(crate) follower: Follower,
    publisher: Arc<NamePublisher>,
    at: SocketAddr,
    talks: Arc<Mutex<Vec<IpAddr>>>,
    serving: Option<Runtime>,
}

impl Agent {
    /// Starts the agent of the node `n<number>`; it serves its names to other agents.
    pub(crate) fn start(kubeconfig: &Path, number: u8, port: u16) -> Self {
        Self::permitting(kubeconfig, number, port, Permits::default())
    }

    /// Starts the agent of a node, which lets addresses in further networks count.
    pub(crate) fn permitting(kubeconfig: &Path, number: u8, port: u16, permits: Permits) -> Self {
        let (publisher, talks) = (
            Arc::<NamePublisher>::default(),
            Arc::<Mutex<Vec<IpAddr>>>::default(),
        );
        let talking = Arc::clone(&talks);
        let of_node = OfNode {
            node: format!("n{number}").into(),
            port,
            publisher: Arc::clone(&publisher),
            addresses: Arc::new(move || talking.lock().expect("not poisoned").clone()),
        };
        let mut agent = Self {
            follower: Follower::permitting(kubeconfig, Some(of_node), permits),
            publisher,
            at: SocketAddr::new(node_address(number), port),
            talks,
            serving: None,
        };
        agent.serve();
        agent
    }

    /// Something on its node talks with this address.
    pub(crate) fn talks_with(&self, address: &str) {
        let address = address.parse().expect("an address");
        self.talks.lock().expect("not poisoned").push(address);
    }

    /// Answers the others.
    pub(crate) fn serve(&mut self) {
        let listener = TcpListener::bind(self.at).expect("bind");
        self.serving = Some(self.serve_at(listener));
    }

    /// Answers whoever comes there, as long as what is returned is kept.
    pub(crate) fn serve_at(&self, listener: TcpListener) -> Runtime {
        let runtime = Runtime::new().expect("a runtime");
        let config = Config::default();
        let access = runtime.block_on(Access::new(&config, Arc::default()));
        let access = access.expect("what nodes may ask");
        let access = access.with_nodes(Arc::clone(&self.publisher));
        let router = names::router(Arc::clone(&self.publisher))
            .layer(middleware::from_fn_with_state(Arc::new(access), guard));
        let limits = Limits::within(1 << 16);
        let admission = Admission::new(limits.shares, Arc::clone(&self.publisher), Arc::default());
        let door = Door::new(router, limits, Arc::default());
        runtime.spawn(async move {
            let server = Server::over(listener, Purpose::Everybody).expect("a listener");
            server.serve(door, admission).await;
        });
        runtime
    }

    /// Answers nobody any more, as if it had died: its connections break.
    pub(crate) fn stop_serving(&mut self) {
        let runtime = self.serving.take().expect("serving");
        runtime.shutdown_timeout(Duration::from_secs(5));
    }

    /// Agents that listen to it.
    pub(crate) fn listeners(&self) -> usize {
        self.publisher.listeners()
    }
}

/// An agent that says one line to each that asks, and then nothing.
pub(crate) fn says_once(at: SocketAddr, line: String) {
    let listener = TcpListener::bind(at).expect("bind");
    thread::spawn(move || {
        let mut open = Vec::new();
        for mut client in listener.incoming().map_while(Result::ok) {
            let mut request = [0; 1024];
            // Whatever it asks.
            let _ = client.read(&mut request);
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            let chunk = format!("{head}{:x}\r\n{line}\n\r\n", line.len() + 1);
            // It may have gone.
            let _ = client.write_all(chunk.as_bytes());
            open.push(client);
        }
    });
}
