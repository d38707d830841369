//! Network namespaces: opened by name or path, and entered by a thread that stays there.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use nix::sched::{CloneFlags, setns};
use thiserror::Error;

/// Directory where `ip netns add` keeps its namespaces.
const NAMED: &str = "/run/netns";

/// An open network namespace.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
}

/// Why a network namespace could not be used.
#[derive(Debug, Error)]
pub enum NetnsError {
    /// The namespace does not exist.
    #[error(
        "cannot open the network namespace {path}: {source}; give a name that `ip netns list` \
         shows, or a path such as /proc/PID/ns/net"
    )]
    Open {
        /// Path that was opened.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// The thread could not enter the namespace.
    #[error(
        "cannot enter the network namespace {path}: {source}; this needs CAP_SYS_ADMIN: run as \
         root, and give a network namespace"
    )]
    Enter {
        /// Path of the namespace.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
}

impl Netns {
    /// Opens a namespace: a path if `name` holds a slash, else a name of `ip netns`.
    pub fn open(name: &str) -> Result<Self, NetnsError> {
        let path = if name.contains('/') {
            PathBuf::from(name)
        } else {
            Path::new(NAMED).join(name)
        };
        match File::open(&path) {
            Ok(file) => Ok(Self { file, path }),
            Err(source) => Err(NetnsError::Open { path, source }),
        }
    }

    /// Moves the calling thread into this namespace, for good.
    ///
    /// Only for threads made for the purpose: sockets that the thread opens from now on, and
    /// interface indices it passes to the kernel, mean this namespace.
    pub fn enter(&self) -> Result<(), NetnsError> {
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| NetnsError::Enter {
            path: self.path.clone(),
            source: errno.into(),
        })
    }
}
