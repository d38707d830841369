//! Why pins cannot be used, and what to do about it.

use std::{io, path::PathBuf};

use thiserror::Error;

/// Why the data path cannot be kept in a BPF file system.
#[derive(Debug, Error)]
pub enum PinError {
    /// There is none.
    #[error(
        "{path} is not in a BPF file system, so the agent cannot pin there: mount one (`mount -t \
         bpf bpf /sys/fs/bpf`; in Kubernetes give the container the node's as a hostPath volume), \
         set `pins.path` to a directory in it, or set `pins.enabled: false`"
    )]
    NotBpf {
        /// The configured directory.
        path: PathBuf,
    },
    /// It is mounted read-only.
    #[error(
        "the BPF file system at {path} is read-only: mount it writable (in Kubernetes without `readOnly` in volumeMounts), or set `pins.enabled: false`"
    )]
    ReadOnly {
        /// The configured directory.
        path: PathBuf,
    },
    /// Another agent has these pins.
    #[error(
        "the pins at {path} belong to a running agent{}: stop it, or give this agent a `pins.path` \
         of its own", .pid.map(|pid| format!(" (process id {pid})")).unwrap_or_default()
    )]
    InUse {
        /// The configured directory.
        path: PathBuf,
        /// That agent's process id as this process sees it, if it does.
        pid: Option<u32>,
    },
    /// A file system call or `bpf(2)` failed.
    #[error("cannot {what} {path}: {source}{}", remedy(.source))]
    Call {
        /// What was tried.
        what: &'static str,
        /// With which path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "; this needs CAP_BPF and a directory that this process may write: run lpm as root"
        }
        Some(libc::EROFS) => "; mount the BPF file system writable",
        _ => "; `lpm detach` removes what is pinned",
    }
}

impl PinError {
    pub(super) fn call(what: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        if source.raw_os_error() == Some(libc::EROFS) {
            return Self::ReadOnly { path };
        }
        Self::Call { what, path, source }
    }
}
