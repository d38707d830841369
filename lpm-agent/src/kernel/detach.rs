//! `lpm detach`: removes every trace of agents that are gone, and nothing else.

mod pinned;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    thread,
};

use serde::Serialize;
use thiserror::Error;

use super::{
    bpf::Direction,
    interfaces,
    liveness::{self, RunningAgent},
    netlink::Route,
    netns::{Netns, NetnsError},
    ownership::{self, Owner, owner},
    privileges::{self, Need},
    tc,
};

/// Default directory of the pins.
pub const PINS: &str = "/sys/fs/bpf/lpm";

/// Remedy where detaching is not permitted.
const DETACH_ELSEWHERE: &str = " missing: run `lpm detach` as root on the node itself. In a pod of \
                                the agent it cannot work and is not needed: when its DaemonSet is \
                                deleted, the agent removes everything itself. To remove what a \
                                killed agent left on a node of a cluster, run `kubectl debug \
                                node/NODE --profile=sysadmin --image=IMAGE -- /lpm detach --pins \
                                /host/sys/fs/bpf/lpm`";

/// An object that an agent put into the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Trace {
    /// A TC filter.
    Filter {
        /// Name of the interface.
        interface: String,
        /// Hook of the filter.
        direction: Direction,
        /// Priority of the filter.
        priority: u16,
        /// Handle of the filter.
        handle: u32,
        /// Kernel id of the filter's program.
        program: u32,
    },
    /// A pinned program, map or link.
    Pin {
        /// Path of the pin.
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

/// A program of a gone agent that is still loaded: pinned in another directory, or attached in
/// another network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leftover {
    /// Kernel id of the program.
    pub program: u32,
    /// Name of the program.
    pub name: String,
    /// Where links hold it. Empty: by filters, or by pins alone.
    pub hooks: Vec<String>,
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "program {} ({})", self.program, self.name)?;
        if !self.hooks.is_empty() {
            write!(f, " with {}", self.hooks.join(" and "))?;
        }
        Ok(())
    }
}

/// Result of `lpm detach`.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Traces that were removed.
    pub removed: Vec<Trace>,
    /// Traces that were left, because the agent with this process id (0: not known) uses them.
    pub in_use: Vec<(u32, Trace)>,
    /// Traces of ours that the kernel refused to remove, and why.
    pub failed: Vec<(Trace, String)>,
    /// Programs of ours that no process holds and that were not found here. They may be kept for the
    /// next agent of another network namespace or with other pins.
    pub elsewhere: Vec<Leftover>,
    /// Agents that run in this network namespace. They are not stopped. What they attached goes
    /// with them, unless it is pinned.
    pub agents: Vec<RunningAgent>,
}

impl Report {
    /// True if nothing of ours is left except what running agents use.
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
                0 => writeln!(f, "kept {trace}: a running agent uses it")?,
                pid => writeln!(f, "kept {trace}: the agent with process id {pid} uses it")?,
            }
        }
        for (trace, reason) in &self.failed {
            writeln!(f, "could not remove {trace}: {reason}")?;
        }
        for agent in &self.agents {
            writeln!(
                f,
                "an agent runs here with process id {}: stop it (kill {0}); `lpm detach` then \
                 removes what it has attached",
                agent.pid
            )?;
        }
        for leftover in &self.elsewhere {
            writeln!(
                f,
                "left {leftover}: no agent holds it, and it is pinned in another directory or \
                 attached in another network namespace: `lpm detach --pins DIRECTORY` or `lpm \
                 --netns NAME detach` removes it, and `bpftool -f prog show id {}` or `bpftool -f \
                 link` shows its pins",
                leftover.program
            )?;
        }
        if self.removed.is_empty() && self.failed.is_empty() && self.elsewhere.is_empty() {
            writeln!(f, "no former agent has left anything behind")?;
        }
        Ok(())
    }
}

/// Why `lpm detach` could do nothing.
#[derive(Debug, Error)]
pub enum DetachError {
    /// Capabilities are missing. In an agent's container, which has only what measuring takes, that
    /// is so by intent.
    #[error("{}{DETACH_ELSEWHERE}", .missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and "))]
    NotPermitted {
        /// The missing capabilities, and their purposes.
        missing: Vec<Need>,
    },
    /// The namespace cannot be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The interfaces, their filters or the running agents could not be listed.
    #[error("cannot list {what}: {source}")]
    List {
        /// What was listed.
        what: String,
        /// The kernel's error.
        source: io::Error,
    },
}

/// Removes the traces in a network namespace (`None`: the caller's), and the pins in [`PINS`].
pub fn detach(netns: Option<&Netns>) -> Result<Report, DetachError> {
    detach_with(netns, Path::new(PINS))
}

/// Removes the traces as [`detach`] does, with the pins in another directory, such as the
/// configuration's `pins.path`.
pub fn detach_with(netns: Option<&Netns>, pins: &Path) -> Result<Report, DetachError> {
    let missing = privileges::missing_to_detach();
    if !missing.is_empty() {
        return Err(DetachError::NotPermitted { missing });
    }
    let before = ownership::loaded();
    let mut report = match netns {
        None => filters(true)?,
        // A thread of its own is needed, because entering a namespace cannot be undone reliably.
        Some(netns) => thread::scope(|scope| {
            let inside = scope.spawn(|| {
                netns.enter()?;
                filters(true)
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?,
    };
    pinned::unpin(pins, &mut report)?;
    report.elsewhere = pinned::leftovers(&before, &report);
    Ok(report)
}

/// Removes the filters that gone agents left in the calling thread's network namespace, as the next
/// agent's start does, but also where whose they are takes `CAP_SYS_ADMIN` to find out. Those that
/// belong to pins stay. Without the capabilities it does nothing.
///
/// # Errors
/// The interfaces, their filters or the running agents cannot be listed.
pub fn remove_leftovers() -> Result<Report, DetachError> {
    if privileges::missing_to_detach().is_empty() {
        filters(false)
    } else {
        Ok(Report::default())
    }
}

/// Removes the filters of gone agents in the calling thread's network namespace, those that belong
/// to pins only if that is wanted.
fn filters(of_pins: bool) -> Result<Report, DetachError> {
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
                // The interface has gone since it was listed.
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
                    Owner::Persisted if !of_pins => {}
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
