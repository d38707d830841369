//! Where servers run: on this machine's loopback interface, or in a namespace.

use std::{
    ffi::OsStr,
    net::{Ipv4Addr, TcpListener},
    process::Command,
    sync::Arc,
};

use super::Error;
use crate::testbed::Netns;

/// A network namespace and the address in it that servers listen on.
#[derive(Debug, Clone)]
pub(super) struct Site {
    /// None: the namespace of this process.
    pub(super) netns: Option<Arc<Netns>>,
    /// The address.
    pub(super) address: Ipv4Addr,
}

impl Site {
    /// The loopback interface of this process' namespace.
    pub(super) const fn here() -> Self {
        Self {
            netns: None,
            address: Ipv4Addr::LOCALHOST,
        }
    }

    /// A command that will run there.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        match &self.netns {
            None => Command::new(program),
            Some(netns) => netns.command(program),
        }
    }

    /// Ports that nobody listens on now, neither at the address nor at the loopback interface.
    pub(super) fn free_ports<const N: usize>(&self) -> Result<[u16; N], Error> {
        let find = || {
            let mut ports = [0; N];
            let mut held = Vec::new();
            for port in &mut ports {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
                *port = listener.local_addr()?.port();
                held.push(listener);
            }
            Ok(ports)
        };
        let found = match &self.netns {
            None => find(),
            Some(netns) => netns
                .run_in(find)
                .unwrap_or_else(|error| Err(std::io::Error::other(error.to_string()))),
        };
        found.map_err(|source| Error::system("find a free port", source))
    }
}
