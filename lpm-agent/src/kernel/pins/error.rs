//! Errors of pins, with their remedies.

use std::{io, path::PathBuf};

use thiserror::Error;

/// Why the data path cannot be kept in a BPF file system.
#[derive(Debug, Error)]
pub enum PinError {
    /// The directory is not in a BPF file system.
    #[error(
        "{path} is not in a BPF file system, so the agent cannot pin there: mount one (`mount -t \
         bpf bpf /sys/fs/bpf`; in Kubernetes give the container the node's as a hostPath volume), \
         set `pins.path` to a directory in it, or set `pins.enabled: false`"
    )]
    NotBpf {
        /// The configured directory.
        path: PathBuf,
    },
    /// The BPF file system is mounted read-only.
    #[error(
        "the BPF file system at {path} is read-only: mount it writable (in Kubernetes without `readOnly` in volumeMounts), or set `pins.enabled: false`"
    )]
    ReadOnly {
        /// The configured directory.
        path: PathBuf,
    },
    /// Another agent holds these pins.
    #[error(
        "the pins at {path} belong to a running agent{}: stop it, or give this agent a `pins.path` \
         of its own", .pid.map(|pid| format!(" (process id {pid})")).unwrap_or_default()
    )]
    InUse {
        /// The configured directory.
        path: PathBuf,
        /// Process id of that agent as this process sees it. None: it is not visible.
        pid: Option<u32>,
    },
    /// The path leads to a symbolic link or a file.
    #[error(
        "{path} is a symbolic link or a file, and the agent pins in a directory only: look who made \
         it, remove it, or set `pins.path` to another directory"
    )]
    NoDirectory {
        /// The path in question.
        path: PathBuf,
    },
    /// Somebody else may change the directory.
    #[error(
        "{path} belongs to user {owner} and has mode {mode:04o}, and whoever may change it decides \
         what the agent takes over: look who made it, then remove it (`rm -r {path}`) or make it \
         root's own (`chown -R root {path} && chmod -R go-w {path}`), or set `pins.path` to another \
         directory. In a BPF file system that is mounted with `-o mode=0700` only root makes \
         directories"
    )]
    Untrusted {
        /// The directory in question.
        path: PathBuf,
        /// Id of the user that owns it.
        owner: u32,
        /// Mode of the directory.
        mode: u32,
    },
    /// A process of another user holds the lock, and no agent does so.
    #[error(
        "process {pid} of user {owner} holds the lock on {path}, and it is no agent: end it (`kill \
         {pid}`), and take the right to open the directory from others (`chmod 700 {path}`)"
    )]
    Locked {
        /// The configured directory.
        path: PathBuf,
        /// Process id of the holder.
        pid: u32,
        /// Id of the holder's user.
        owner: u32,
    },
    /// A file system call or `bpf(2)` failed.
    #[error("cannot {what} {path}: {source}{}", remedy(.source))]
    Call {
        /// The operation that failed.
        what: &'static str,
        /// Path of the operation.
        path: PathBuf,
        /// The kernel's error.
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
