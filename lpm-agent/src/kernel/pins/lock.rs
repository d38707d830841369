//! The lock on the directory of the pins: one agent at a time.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::statfs::{BPF_FS_MAGIC, statfs},
    sys::statvfs::{FsFlags, statvfs},
};

use super::PinError;

/// Interval between attempts while another agent holds the lock.
const EVERY: Duration = Duration::from_millis(50);

/// The held lock. It ends with the process, however that ends.
#[derive(Debug)]
pub(crate) struct Lock(#[allow(dead_code, reason = "held, never read")] Flock<File>);

impl Lock {
    /// Takes the lock, waiting up to `patience` for another agent to end.
    pub(crate) fn take(root: &Path, patience: Duration) -> Result<Self, PinError> {
        let begun = Instant::now();
        let mut said = false;
        loop {
            match Self::try_take(root)? {
                Ok(lock) => return Ok(lock),
                Err(pid) if begun.elapsed() >= patience => {
                    let path = root.to_owned();
                    return Err(PinError::InUse { path, pid });
                }
                Err(pid) => {
                    if !said {
                        tracing::info!(path = %root.display(), pid, "waiting for the agent that uses these pins to end");
                        said = true;
                    }
                    thread::sleep(EVERY);
                }
            }
        }
    }

    /// Tries to take the lock. If another process holds it, returns its process id, if that is
    /// known.
    pub(crate) fn try_take(root: &Path) -> Result<Result<Self, Option<u32>>, PinError> {
        let failed = |source| PinError::call("lock", root, source);
        let directory = File::open(root).map_err(failed)?;
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Ok(Self(lock))),
            Err((directory, Errno::EWOULDBLOCK)) => {
                let inode = directory.metadata().map_err(failed)?.ino();
                Ok(Err(holder(inode)))
            }
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }
}

/// Finds the holder of a lock on a file in `/proc/locks`. A line is `1: FLOCK  ADVISORY  WRITE 4711
/// 00:1b:42 0 EOF`.
fn holder(inode: u64) -> Option<u32> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| holder_of(line, inode))
}

fn holder_of(line: &str, inode: u64) -> Option<u32> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, "FLOCK", _, "WRITE", pid, file, ..] = fields[..] else {
        return None;
    };
    let locked: u64 = file.rsplit(':').next()?.parse().ok()?;
    // A process of another PID namespace is shown as 0 or not at all.
    let pid: u32 = pid.parse().ok()?;
    (locked == inode && pid > 0).then_some(pid)
}

/// Checks that a directory, or the place where it will be made, is in a writable BPF file system.
pub(crate) fn check(root: &Path) -> Result<(), PinError> {
    let failed = |errno: Errno| PinError::call("look at", root, errno.into());
    let there: PathBuf = root
        .ancestors()
        .find(|path| path.exists())
        .map_or_else(|| PathBuf::from("/"), Path::to_owned);
    if statfs(&there).map_err(failed)?.filesystem_type() != BPF_FS_MAGIC {
        return Err(PinError::NotBpf {
            path: root.to_owned(),
        });
    }
    let flags = statvfs(&there).map_err(failed)?.flags();
    if flags.contains(FsFlags::ST_RDONLY) {
        return Err(PinError::ReadOnly {
            path: root.to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel() {
        let line = "12: FLOCK  ADVISORY  WRITE 4711 00:1b:42 0 EOF";
        assert_eq!(holder_of(line, 42), Some(4711));
        assert_eq!(holder_of(line, 43), None);
        for other in [
            "12: POSIX  ADVISORY  WRITE 4711 00:1b:42 0 EOF",
            "12: FLOCK  ADVISORY  WRITE 0 00:1b:42 0 EOF",
            "12: -> FLOCK  ADVISORY  WRITE 4712 00:1b:42 0 EOF",
            "",
        ] {
            assert_eq!(holder_of(other, 42), None, "{other}");
        }
    }
}
