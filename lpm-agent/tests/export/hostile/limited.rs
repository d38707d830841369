//! An agent with few descriptors and little memory, and connections between many addresses.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

use lpm_testbed::testbed::{Netns, Pair};
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{TcpListener, TcpSocket},
    runtime::{Builder, Runtime},
};

use crate::support::{
    limited::{Group, anonymous, limit},
    lpm::Lpm,
};

/// An agent in a node's network namespace. It listens where pods reach it.
pub(super) struct Limited {
    lpm: Lpm,
    _group: Option<Group>,
}

impl Limited {
    /// Starts one, and waits until it serves.
    pub(super) fn start(
        node: &Netns,
        program: Option<&Path>,
        memory: Option<u64>,
        config: &Path,
    ) -> Self {
        let program = program.unwrap_or(Path::new(env!("CARGO_BIN_EXE_lpm")));
        let group = memory.map(Group::new);
        let mut command = node.command(program);
        command.args(["run", "-c", config.to_str().expect("a path")]);
        limit(&mut command, group.as_ref());
        let lpm = Lpm::spawn(node, &mut command);
        lpm.wait_for("/metrics\n");
        Self { lpm, _group: group }
    }

    /// Memory of its own, bytes (`RssAnon` of proc(5)).
    pub(super) fn anonymous(&self) -> u64 {
        anonymous(&self.lpm)
    }

    /// Waits until it has said something.
    pub(super) fn wait_for(&self, text: &str) {
        self.lpm.wait_for(text);
    }

    pub(super) fn signal(&self, signal: Signal) {
        self.lpm.child.signal(signal).expect("signal");
    }

    /// Ends it in good order: it ran all the time.
    pub(super) fn end(self) {
        let status = self.lpm.end(Signal::SIGTERM);
        assert!(status.success(), "{status}: {}", self.lpm.said());
    }
}

/// Lets each of the pod's addresses talk with each of the remote machine's.
pub(super) fn talk(pair: &Pair, from: &[Ipv4Addr], to: &[Ipv4Addr]) {
    let server = pair.server.run_in(|| {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        // The socket stays in the namespace, whichever thread uses it.
        let listener = runtime
            .block_on(TcpListener::bind("0.0.0.0:0"))
            .expect("bind");
        let port = listener.local_addr().expect("an address").port();
        runtime.spawn(answer(listener));
        (runtime, port)
    });
    let (runtime, port) = server.expect("a namespace");
    let talked = pair.client.run_in(|| {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        from.iter().try_for_each(|from| {
            to.iter()
                .try_for_each(|to| runtime.block_on(ask(*from, (*to, port).into())))
        })
    });
    talked.expect("a namespace").expect("they talk");
    drop::<Runtime>(runtime);
}

/// Answers whatever comes with the same.
async fn answer(listener: TcpListener) -> io::Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let (mut from, mut to) = stream.split();
            // It ends with the connection.
            let _ = copy(&mut from, &mut to).await;
        });
    }
}

/// Asks some times, little and much, so that there are round trips of each kind.
async fn ask(from: Ipv4Addr, to: SocketAddr) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let mut stream = socket.connect(to).await?;
    let (little, much) = ([7; 1], [7; 6000]);
    for sent in [&little[..], &much, &little, &much] {
        stream.write_all(sent).await?;
        stream.read_exact(&mut vec![0; sent.len()]).await?;
    }
    Ok(())
}
