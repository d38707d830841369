//! Giving up rights: what an agent was started with, cut down to what it needs from then on.
//!
//! It happens before any other thread starts, because capabilities, filters of system calls and
//! Landlock's rules belong to threads, and a new thread has those of the one that starts it.

use std::{
    fmt,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};
use nix::sys::{
    prctl,
    resource::{RLIM_INFINITY, Resource, setrlimit},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{super::attach::kernel_at_least, files, syscalls};

/// What `lpm run` keeps of the rights that it was started with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// What measuring takes.
    #[default]
    Least,
    /// What measuring and names of other users' processes take.
    ProcessNames,
    /// Everything.
    All,
}

impl Keep {
    /// The value in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Least => "least",
            Self::ProcessNames => "process_names",
            Self::All => "all",
        }
    }
}

/// Capabilities of an agent that measures. `CAP_SYS_ADMIN`, which grants the first and the last as
/// well, is not among them.
const MEASURING: [Capability; 3] = [
    Capability::CAP_BPF,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_PERFMON,
];

/// Capabilities that show which process holds a socket.
const NAMING: [Capability; 2] = [Capability::CAP_SYS_PTRACE, Capability::CAP_DAC_READ_SEARCH];

/// Capabilities that open files in spite of their modes.
const FILES: [Capability; 2] = [
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
];

/// Ports below this one take a capability to listen at.
const FIRST_FREE_PORT: u16 = 1024;

/// What an agent does from now on, as far as it takes rights.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// What is kept.
    pub keep: Keep,
    /// True: it loads no kernel program and attaches none.
    pub only_probes: bool,
    /// Files that are read again while it runs.
    pub reads: Vec<PathBuf>,
    /// Directories that it writes in. They exist.
    pub writes: Vec<PathBuf>,
    /// Ports that it is about to listen at.
    pub ports: Vec<u16>,
    /// True: it may start other programs, for credentials of the API server.
    pub executes: bool,
}

/// The rights that an agent has after [`reduce`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reduced {
    /// Names of the capabilities, sorted.
    pub capabilities: Vec<String>,
    /// Files that are readable only with `CAP_DAC_READ_SEARCH`, which is kept for them.
    pub hidden: Vec<PathBuf>,
    /// True: system calls are filtered.
    pub filtered: bool,
    /// True: Landlock confines it to its own directories.
    pub confined: bool,
}

impl fmt::Display for Reduced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.capabilities.as_slice() {
            [] => f.write_str("keeps no capability")?,
            some => write!(f, "keeps {}", some.join(", "))?,
        }
        let layers = [(self.filtered, "seccomp"), (self.confined, "Landlock")];
        for (on, layer) in layers {
            write!(f, ", {} {layer}", if on { "with" } else { "without" })?;
        }
        Ok(())
    }
}

/// Why rights could not be given up.
#[derive(Debug, Error)]
#[error("the agent cannot {what}: {reason}; set `privileges: all` to keep all rights that it has")]
pub struct ReduceError {
    what: &'static str,
    reason: String,
}

impl ReduceError {
    fn new(what: &'static str, reason: impl fmt::Display) -> Self {
        let reason = reason.to_string();
        Self { what, reason }
    }
}

/// The capabilities that an agent with these needs keeps, of those that it has.
fn kept(needs: &Needs, held: &CapsHashSet, hidden: bool) -> CapsHashSet {
    let mut kept = CapsHashSet::new();
    if !needs.only_probes {
        kept.extend(MEASURING);
        // A container runtime that does not know the first and the last gives this one in their
        // place.
        if MEASURING.iter().any(|one| !held.contains(one)) {
            kept.insert(Capability::CAP_SYS_ADMIN);
        }
    }
    if needs.keep == Keep::ProcessNames {
        kept.extend(NAMING);
    }
    if hidden {
        kept.insert(Capability::CAP_DAC_READ_SEARCH);
    }
    // 0 is a port that the kernel chooses.
    if needs
        .ports
        .iter()
        .any(|port| (1..FIRST_FREE_PORT).contains(port))
    {
        kept.insert(Capability::CAP_NET_BIND_SERVICE);
    }
    kept
}

/// Reduces the rights of the calling thread, and of those that it starts, for good.
///
/// # Errors
/// The kernel's. Where it has no Landlock, that is none.
pub fn reduce(needs: &Needs) -> Result<Reduced, ReduceError> {
    if needs.keep == Keep::All {
        let capabilities = super::effective();
        return Ok(Reduced {
            capabilities,
            ..Reduced::default()
        });
    }
    // Before 5.11 maps count against this limit, which later on cannot be raised any more.
    if !kernel_at_least(5, 11) {
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    }
    let of_caps = |error: CapsError| ReduceError::new("give up capabilities", error);
    let hidden = hidden(&needs.reads).map_err(of_caps)?;
    prctl::set_no_new_privs().map_err(|errno| ReduceError::new("set no_new_privs", errno))?;
    let held = caps::read(None, CapSet::Permitted).map_err(of_caps)?;
    drop_all_but(&kept(needs, &held, !hidden.is_empty())).map_err(of_caps)?;
    // Landlock hides all other processes, whatever the capabilities.
    let confined = needs.keep == Keep::Least
        && files::confine(&needs.writes, needs.executes)
            .map_err(|error| ReduceError::new("confine itself by Landlock", error))?;
    syscalls::filter(needs.executes)
        .map_err(|error| ReduceError::new("filter its system calls", error))?;
    Ok(Reduced {
        capabilities: super::effective(),
        hidden,
        filtered: true,
        confined,
    })
}

/// The files that this thread can read only because of a capability.
fn hidden(files: &[PathBuf]) -> Result<Vec<PathBuf>, CapsError> {
    let held = caps::read(None, CapSet::Effective)?;
    let without: CapsHashSet = held
        .iter()
        .copied()
        .filter(|capability| !FILES.contains(capability))
        .collect();
    caps::set(None, CapSet::Effective, &without)?;
    let hidden = files
        .iter()
        .filter(|file| is_hidden(file))
        .cloned()
        .collect();
    caps::set(None, CapSet::Effective, &held)?;
    Ok(hidden)
}

fn is_hidden(file: &Path) -> bool {
    File::open(file).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// Takes all capabilities but these out of each set of the calling thread.
fn drop_all_but(kept: &CapsHashSet) -> Result<(), CapsError> {
    let held = caps::read(None, CapSet::Permitted)?;
    // Without this capability the bounding set stays. Since no_new_privs is set, no program that
    // this process starts gets a capability of it.
    if held.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::read(None, CapSet::Bounding)? {
            if !kept.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability)?;
            }
        }
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    let kept: CapsHashSet = kept.intersection(&held).copied().collect();
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use super::*;

    /// Lines of a thread's status, in a thread that has nothing to lose.
    fn after(needs: Needs) -> (Reduced, String) {
        let thread = thread::spawn(move || {
            let reduced = reduce(&needs).expect("reduce");
            let inner = thread::spawn(|| fs::read_to_string("/proc/thread-self/status"));
            let status = inner.join().expect("no panic").expect("its status");
            (reduced, status)
        });
        thread.join().expect("no panic")
    }

    fn line<'a>(status: &'a str, key: &str) -> &'a str {
        let mut lines = status.lines();
        let value = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        value.expect(key).trim()
    }

    #[test]
    fn a_thread_and_those_that_it_starts_have_no_more_than_they_need() {
        let (reduced, status) = after(Needs::default());
        let permitted = u64::from_str_radix(line(&status, "CapPrm"), 16).expect("a set");
        let needed = MEASURING.iter().fold(0, |set, one| set | one.bitmask());
        assert_eq!(permitted & !needed, 0, "{status}");
        assert_eq!(line(&status, "CapEff"), line(&status, "CapPrm"));
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(line(&status, set).trim_matches('0'), "", "{set}");
        }
        assert_eq!(line(&status, "NoNewPrivs"), "1");
        assert_eq!(line(&status, "Seccomp"), "2");
        assert!(reduced.filtered && reduced.hidden.is_empty());
    }

    #[test]
    fn everything_stays_if_that_is_wanted() {
        let before = super::super::effective();
        let (reduced, status) = after(Needs {
            keep: Keep::All,
            ..Needs::default()
        });
        assert_eq!(reduced.capabilities, before);
        assert_eq!(line(&status, "NoNewPrivs"), "0");
    }

    #[test]
    fn a_feature_keeps_what_it_takes() {
        let with = |needs: &Needs, hidden| {
            let kept = kept(needs, &caps::all(), hidden);
            let more = kept.iter().filter(|one| !MEASURING.contains(one));
            let mut more: Vec<String> = more.map(ToString::to_string).collect();
            more.sort();
            more
        };
        let needs = Needs::default();
        assert_eq!(with(&needs, false), [""; 0]);
        assert_eq!(with(&needs, true), ["CAP_DAC_READ_SEARCH"]);
        let ports = |ports: &[u16]| Needs {
            ports: ports.to_vec(),
            ..Needs::default()
        };
        assert_eq!(with(&ports(&[0, 9477]), false), [""; 0]);
        assert_eq!(with(&ports(&[443]), false), ["CAP_NET_BIND_SERVICE"]);
        let old = CapsHashSet::from([Capability::CAP_NET_ADMIN, Capability::CAP_SYS_ADMIN]);
        assert!(kept(&needs, &old, false).contains(&Capability::CAP_SYS_ADMIN));
        let names = Needs {
            keep: Keep::ProcessNames,
            ..Needs::default()
        };
        assert_eq!(
            with(&names, false),
            ["CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE"]
        );
    }
}
