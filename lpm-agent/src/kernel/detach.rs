//! `lpm detach`: takes away every trace of agents that are gone, and nothing else.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    thread,
};

use nix::{
    errno::Errno,
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use serde::Serialize;
use thiserror::Error;

use super::{
    bpf::Direction,
    interfaces,
    liveness::{self, RunningAgent},
    netlink::Route,
    netns::{Netns, NetnsError},
    ownership::{Owner, owner},
    pins::{self, Lock, PinError},
    privileges::{self, Need},
    tc,
};

/// Where agents pin what is to outlive them, unless they are told otherwise.
pub const PINS: &str = "/sys/fs/bpf/lpm";

/// What to do where it is not permitted.
const DETACH_ELSEWHERE: &str = " missing: run `lpm detach` as root on the node itself. In a pod of the agent it cannot work, and need not: with its DaemonSet deleted the agent takes everything off. What one that was killed left on a node of a cluster goes by `kubectl debug node/NODE --profile=sysadmin --image=IMAGE -- /lpm detach --pins /host/sys/fs/bpf/lpm`";

/// Something that an agent put into the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Trace {
    /// A TC filter.
    Filter {
        /// The interface's name.
        interface: String,
        /// Its hook.
        direction: Direction,
        /// Its priority.
        priority: u16,
        /// Its handle.
        handle: u32,
        /// The kernel id of its program.
        program: u32,
    },
    /// A pinned program, map or link.
    Pin {
        /// Where.
        path: PathBuf,
    },
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter {
                interface,
                direction,
                priority,
                handle,
                program,
            } => write!(
                f,
                "the filter with program {program} on the {direction} of {interface} (priority {priority}, handle {handle:#x})"
            ),
            Self::Pin { path } => write!(f, "the pin {}", path.display()),
        }
    }
}

/// What was done.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Taken away.
    pub removed: Vec<Trace>,
    /// Left, because the agent with this process id (0: not known) uses it.
    pub in_use: Vec<(u32, Trace)>,
    /// Ours, but the kernel refused to remove it, and why.
    pub failed: Vec<(Trace, String)>,
    /// Agents that run in this network namespace. They are not stopped; what they attached goes
    /// with them, unless it is pinned.
    pub agents: Vec<RunningAgent>,
}

impl Report {
    /// Whether nothing of ours is left but what running agents use.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.failed.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for trace in &self.removed {
            writeln!(f, "removed {trace}")?;
        }
        for (pid, trace) in &self.in_use {
            match pid {
                0 => writeln!(f, "left {trace}: a running agent uses it")?,
                pid => writeln!(f, "left {trace}: the agent with process id {pid} uses it")?,
            }
        }
        for (trace, reason) in &self.failed {
            writeln!(f, "could not remove {trace}: {reason}")?;
        }
        for agent in &self.agents {
            writeln!(
                f,
                "an agent runs here with process id {}: stop it (kill {0}), and `lpm detach` removes what it leaves",
                agent.pid
            )?;
        }
        if self.removed.is_empty() && self.failed.is_empty() {
            writeln!(f, "nothing was left behind by an agent that is gone")?;
        }
        Ok(())
    }
}

/// Why nothing could be looked at.
#[derive(Debug, Error)]
pub enum DetachError {
    /// Capabilities are missing. In an agent's container, which has only what measuring takes, that
    /// is so by intent.
    #[error("{}{DETACH_ELSEWHERE}", .missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and "))]
    NotPermitted {
        /// Which, and what for.
        missing: Vec<Need>,
    },
    /// The namespace cannot be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The interfaces, their filters or the running agents could not be listed.
    #[error("list {what}: {source}")]
    List {
        /// What.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Removes the traces in a network namespace (`None`: the caller's), and the pins.
pub fn detach(netns: Option<&Netns>) -> Result<Report, DetachError> {
    detach_with(netns, Path::new(PINS))
}

/// The same with the pins elsewhere: a directory like the configuration's `pins.path`.
pub fn detach_with(netns: Option<&Netns>, pins: &Path) -> Result<Report, DetachError> {
    let missing = privileges::missing_to_detach();
    if !missing.is_empty() {
        return Err(DetachError::NotPermitted { missing });
    }
    let mut report = match netns {
        None => filters()?,
        // A thread of its own, because entering a namespace cannot be undone reliably.
        Some(netns) => thread::scope(|scope| {
            let inside = scope.spawn(|| {
                netns.enter()?;
                filters()
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?,
    };
    unpin(pins, &mut report)?;
    Ok(report)
}

/// The filters of the calling thread's namespace.
fn filters() -> Result<Report, DetachError> {
    let list = |what: &str, source| DetachError::List {
        what: what.to_owned(),
        source,
    };
    let mut report = Report {
        agents: liveness::running_agents().map_err(|source| list("running agents", source))?,
        ..Report::default()
    };
    let mut route = Route::open().map_err(|source| list("interfaces", source))?;
    let interfaces = interfaces::dump(&mut route).map_err(|source| list("interfaces", source))?;
    for interface in interfaces.into_values() {
        for direction in [Direction::Ingress, Direction::Egress] {
            let found = match tc::filters(&mut route, interface.index, direction) {
                Ok(found) => found,
                // It has gone since it was listed.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => continue,
                Err(source) => {
                    return Err(list(&format!("filters of {}", interface.name), source));
                }
            };
            for filter in found {
                let trace = Trace::Filter {
                    interface: interface.name.clone(),
                    direction,
                    priority: filter.priority,
                    handle: filter.handle,
                    program: filter.program.unwrap_or(0),
                };
                match owner(&filter, &report.agents, &[]) {
                    Owner::Other => {}
                    Owner::Agent(pid) => report.in_use.push((pid, trace)),
                    Owner::Leftover | Owner::Persisted => match tc::delete(&mut route, &filter) {
                        Ok(()) => report.removed.push(trace),
                        Err(error) => report.failed.push((trace, error.to_string())),
                    },
                }
            }
        }
    }
    Ok(report)
}

/// Removes the pins of every layout below a directory, if no agent has it; anything else is left
/// alone.
fn unpin(root: &Path, report: &mut Report) -> Result<(), DetachError> {
    let list = |source| DetachError::List {
        what: root.display().to_string(),
        source,
    };
    let type_of = match statfs(root) {
        Ok(found) => found.filesystem_type(),
        Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(list(errno.into())),
    };
    if type_of != BPF_FS_MAGIC {
        return Ok(());
    }
    let refused = |error: PinError| list(io::Error::other(error.to_string()));
    let trace = |path: PathBuf| Trace::Pin { path };
    let _lock = match Lock::try_take(root).map_err(refused)? {
        Ok(lock) => lock,
        Err(pid) => {
            let used = (pid.unwrap_or(0), trace(root.to_owned()));
            report.in_use.push(used);
            return Ok(());
        }
    };
    for directory in pins::layouts(root).map_err(refused)? {
        match pins::dismantle(&directory) {
            Ok(removed) => report.removed.extend(removed.into_iter().map(trace)),
            Err(error) => report.failed.push((trace(directory), error.to_string())),
        }
    }
    // Fails if something is left, which is not ours or has been reported.
    let _ = fs::remove_dir(root);
    Ok(())
}
