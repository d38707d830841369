//! The lock on the directory of the pins: one agent at a time.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::{
    super::{holders, privileges},
    PinError,
    directory::{Directory, is_trusted},
};

/// Interval between attempts while another agent holds the lock.
const EVERY: Duration = Duration::from_millis(50);

/// The held lock. It ends with the process, however that ends.
#[derive(Debug)]
pub(crate) struct Lock(#[allow(dead_code, reason = "held, never read")] Flock<File>);

/// Who holds the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// An agent. Its process id is there if it is visible from here.
    Agent(Option<u32>),
    /// A process of a user who may not have the pins, and which holds no BPF program.
    Stranger {
        /// Process id.
        pid: u32,
        /// Id of the user.
        owner: u32,
    },
}

impl Lock {
    /// Takes the lock, waiting up to `patience` for another agent to end.
    ///
    /// # Errors
    /// The agent did not end, or the holder is no agent. Then nobody waits.
    pub(super) fn take(root: &Directory, patience: Duration) -> Result<Self, PinError> {
        let begun = Instant::now();
        let mut said = false;
        let path = || root.path().to_owned();
        loop {
            match Self::try_take(root)? {
                Ok(lock) => return Ok(lock),
                Err(Holder::Stranger { pid, owner }) => {
                    let path = path();
                    return Err(PinError::Locked { path, pid, owner });
                }
                Err(Holder::Agent(pid)) if begun.elapsed() >= patience => {
                    return Err(PinError::InUse { path: path(), pid });
                }
                Err(Holder::Agent(pid)) => {
                    if !said {
                        tracing::info!(path = %path().display(), pid, "waiting for the agent that uses these pins to end");
                        said = true;
                    }
                    thread::sleep(EVERY);
                }
            }
        }
    }

    /// Holds that no stranger has the lock, for an agent that is about to give up the right to look
    /// at other processes.
    ///
    /// # Errors
    /// A stranger has it.
    pub(super) fn refuse_strangers(root: &Directory) -> Result<(), PinError> {
        match Self::try_take(root)? {
            Err(Holder::Stranger { pid, owner }) => {
                let path = root.path().to_owned();
                Err(PinError::Locked { path, pid, owner })
            }
            Ok(_) | Err(Holder::Agent(_)) => Ok(()),
        }
    }

    /// Tries to take the lock. If another process holds it, returns which.
    pub(crate) fn try_take(root: &Directory) -> Result<Result<Self, Holder>, PinError> {
        let failed = |source| PinError::call("lock", root.path(), source);
        let directory = File::from(root.descriptor().map_err(failed)?);
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Ok(Self(lock))),
            Err((directory, Errno::EWOULDBLOCK)) => {
                let inode = directory.metadata().map_err(failed)?.ino();
                Ok(Err(judge(process(inode))))
            }
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }
}

/// Tells an agent from a stranger. A process that is not visible from here counts as an agent, and
/// so does each where the descriptors of others are not.
fn judge(pid: Option<u32>) -> Holder {
    if !privileges::sees_other_processes() {
        return Holder::Agent(pid);
    }
    let user = |pid: u32| Some(fs::metadata(format!("/proc/{pid}")).ok()?.uid());
    match pid.and_then(|pid| Some((pid, user(pid)?))) {
        Some((pid, owner)) if !is_trusted(owner) && holders::programs_of(pid).is_empty() => {
            Holder::Stranger { pid, owner }
        }
        _ => Holder::Agent(pid),
    }
}

/// Finds the process that holds the lock on a file. None: it is not visible.
fn process(inode: u64) -> Option<u32> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let mut takers = locks.lines().filter_map(parse);
    let taker = takers.find(|(pid, locked)| *locked == inode && *pid > 0);
    // The lock belongs to the open file, and `/proc/locks` names who took it. That process may have
    // left the file to another and ended.
    match taker {
        Some((pid, _)) if Path::new(&format!("/proc/{pid}")).exists() => Some(pid),
        _ => holders::of(|info| {
            let mut locks = info.lines().filter_map(|line| line.strip_prefix("lock:"));
            locks.any(|line| parse(line).is_some_and(|(_, locked)| locked == inode))
        }),
    }
}

/// The process id and the inode of a lock that flock(2) took. A line is `1: FLOCK  ADVISORY  WRITE
/// 4711 00:1b:42 0 EOF`. The id is 0 if the process has gone or is in another PID namespace.
fn parse(line: &str) -> Option<(u32, u64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    // A shared lock keeps an agent out as well.
    let [_, "FLOCK", _, "WRITE" | "READ", pid, file, ..] = fields[..] else {
        return None;
    };
    let inode = file.rsplit(':').next()?.parse().ok()?;
    Some((pid.parse().ok()?, inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel() {
        let line = "12: FLOCK  ADVISORY  WRITE 4711 00:1b:42 0 EOF";
        assert_eq!(parse(line), Some((4711, 42)));
        // As the description of a descriptor has it.
        let described = "\t1: FLOCK  ADVISORY  READ 0 00:1b:42 0 EOF";
        assert_eq!(parse(described), Some((0, 42)));
        for other in [
            "12: POSIX  ADVISORY  WRITE 4711 00:1b:42 0 EOF",
            "12: -> FLOCK  ADVISORY  WRITE 4712 00:1b:42 0 EOF",
            "",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn root_and_the_unseen_may_be_agents() {
        assert_eq!(judge(None), Holder::Agent(None));
        let own = std::process::id();
        assert_eq!(judge(Some(own)), Holder::Agent(Some(own)));
    }

    /// Who took the lock has ended, and this process has the file.
    #[test]
    fn a_lock_is_found_at_who_has_the_file() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let inode = file.as_file().metadata().expect("its inode").ino();
        assert_eq!(process(inode), None);
        let shared = file.as_file().try_clone().expect("a descriptor");
        let taken = std::process::Command::new("flock")
            .arg("0")
            .stdin(shared)
            .status();
        assert!(taken.expect("flock").success());
        assert_eq!(process(inode), Some(std::process::id()));
    }
}
