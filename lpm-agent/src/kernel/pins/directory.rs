//! An open directory of pins.
//!
//! Everything below it is reached through its descriptor, never by its path. So whoever may write
//! further up cannot put another directory in its place between two steps.

use std::{
    ffi::{OsStr, OsString},
    fmt, fs, io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, OFlag, openat},
    sys::{
        stat::{Mode, fchmod, fstat, mkdirat},
        statfs::{BPF_FS_MAGIC, fstatfs, statfs},
        statvfs::{FsFlags, statvfs},
    },
    unistd::{UnlinkatFlags, geteuid, unlinkat},
};

use super::{super::bpf, PinError};

/// Mode bits that let others than the owner write.
const OTHERS_WRITE: u32 = 0o022;

/// Mode bits that let others than the owner do anything.
const OTHERS: u32 = 0o077;

/// Mode bit of a directory in which only the owner of an entry may rename or remove it.
const STICKY: u32 = 0o1000;

/// An open directory in a BPF file system.
#[derive(Debug)]
pub(crate) struct Directory {
    fd: OwnedFd,
    /// Path by which the directory was opened. It is for messages only.
    path: PathBuf,
}

impl Directory {
    /// Opens the configured directory, and makes it if it does not exist.
    ///
    /// # Errors
    /// It is not in a writable BPF file system, or is a symbolic link, or somebody else than root
    /// and this process's user may change it or a directory above it.
    pub(super) fn make_root(path: &Path) -> Result<Self, PinError> {
        check(path)?;
        let failed = |source| PinError::call("make the directory", path, source);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed)?;
        let directory = Self::open_at(AT_FDCWD, path.as_os_str(), path)?;
        let directory = directory.ok_or_else(|| failed(Errno::ENOENT.into()))?;
        directory.check_owner()?;
        directory.close_to_others()?;
        Ok(directory)
    }

    /// Opens a directory of pins whoever owns it, for `lpm detach`. None: it does not exist, or is
    /// in another file system.
    pub(crate) fn look(path: &Path) -> Result<Option<Self>, PinError> {
        let Some(directory) = Self::open_at(AT_FDCWD, path.as_os_str(), path)? else {
            return Ok(None);
        };
        let found = fstatfs(&directory.fd);
        let found = found.map_err(|errno| PinError::call("look at", path, errno.into()))?;
        Ok((found.filesystem_type() == BPF_FS_MAGIC).then_some(directory))
    }

    /// Opens a directory below this one. None: it does not exist.
    pub(crate) fn below(&self, name: impl AsRef<OsStr>) -> Result<Option<Self>, PinError> {
        let name = name.as_ref();
        Self::open_at(self.fd.as_fd(), name, &self.path.join(name))
    }

    /// Opens a directory below this one, and makes it if it does not exist.
    ///
    /// # Errors
    /// Somebody else than root and this process's user may change it.
    pub(super) fn make_below(&self, name: &str) -> Result<Self, PinError> {
        let failed =
            |errno: Errno| PinError::call("make the directory", self.path.join(name), errno.into());
        match mkdirat(&self.fd, name, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let directory = self.below(name)?.ok_or_else(|| failed(Errno::ENOENT))?;
        directory.check_owner()?;
        Ok(directory)
    }

    fn open_at(at: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<Option<Self>, PinError> {
        // A slash at the end would make the kernel follow a symbolic link.
        let name: PathBuf = Path::new(name).components().collect();
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let path = path.to_owned();
        match openat(at, &name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(Self { fd, path })),
            Err(Errno::ENOENT) => Ok(None),
            Err(Errno::ELOOP | Errno::ENOTDIR) => Err(PinError::NoDirectory { path }),
            Err(errno) => Err(PinError::call("open the directory", path, errno.into())),
        }
    }

    /// Holds that nobody else may change what is in it.
    fn check_owner(&self) -> Result<(), PinError> {
        let failed = |errno: Errno| PinError::call("look at", &self.path, errno.into());
        let found = fstat(&self.fd).map_err(failed)?;
        trusted(&self.path, found.st_uid, found.st_mode, OTHERS_WRITE)
    }

    /// Takes the right to open it from everybody else: who can open it can hold its lock. The
    /// kubelet makes directories with mode 0755.
    fn close_to_others(&self) -> Result<(), PinError> {
        let failed = |errno: Errno| PinError::call("look at", &self.path, errno.into());
        let found = fstat(&self.fd).map_err(failed)?;
        if found.st_mode & OTHERS == 0 || found.st_uid != geteuid().as_raw() {
            return Ok(());
        }
        let failed = |errno: Errno| PinError::call("set the mode of", &self.path, errno.into());
        fchmod(&self.fd, Mode::S_IRWXU).map_err(failed)
    }

    /// Path by which the directory was opened, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Path that leads through the descriptor to something in this directory.
    pub(super) fn way(&self, name: impl AsRef<Path>) -> PathBuf {
        let own = PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()));
        own.join(name)
    }

    /// A duplicate of the descriptor, for the lock.
    pub(super) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// Names of the directories in it.
    pub(crate) fn directories(&self) -> Result<Vec<OsString>, PinError> {
        self.names(true)
    }

    /// Names of the pins in it.
    pub(crate) fn pins(&self) -> Result<Vec<OsString>, PinError> {
        self.names(false)
    }

    fn names(&self, directories: bool) -> Result<Vec<OsString>, PinError> {
        let failed = |source| PinError::call("list", &self.path, source);
        let mut found = Vec::new();
        for entry in fs::read_dir(self.way("")).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_type().map_err(failed)?.is_dir() == directories {
                found.push(entry.file_name());
            }
        }
        Ok(found)
    }

    /// True if something of this name is in it.
    pub(crate) fn has(&self, name: &str) -> bool {
        fs::symlink_metadata(self.way(name)).is_ok()
    }

    /// Pins an object.
    pub(super) fn pin(&self, object: impl AsFd, name: &str) -> io::Result<()> {
        bpf::pin(object, &self.way(name))
    }

    /// Opens a pinned object.
    pub(crate) fn open_pin(&self, name: impl AsRef<Path>) -> io::Result<OwnedFd> {
        bpf::open_pin(&self.way(name))
    }

    /// Removes a pin. False: it was gone already.
    pub(crate) fn unpin(&self, name: &OsStr) -> Result<bool, PinError> {
        match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => {
                let path = self.path.join(name);
                Err(PinError::call("remove the pin", path, errno.into()))
            }
        }
    }

    /// Removes a directory in it, if that is empty. False: something is in it.
    pub(crate) fn remove_below(&self, name: &OsStr) -> Result<bool, PinError> {
        match unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(true),
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(false),
            Err(errno) => {
                let path = self.path.join(name);
                Err(PinError::call("remove the directory", path, errno.into()))
            }
        }
    }
}

/// A pin in an open directory.
#[derive(Debug, Clone)]
pub(crate) struct Pin {
    pub(super) directory: Arc<Directory>,
    pub(super) name: OsString,
}

impl Pin {
    /// Removes the pin, which may be gone already. Without another pin and without a descriptor the
    /// object goes with it.
    pub(crate) fn remove(&self) {
        if let Err(error) = self.directory.unpin(&self.name) {
            tracing::error!("{error}");
        }
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.directory.path.join(&self.name).display().fmt(f)
    }
}

/// Checks that a directory, or the place where it will be made, is in a writable BPF file system,
/// and that nobody else may change it or move it away.
pub(crate) fn check(root: &Path) -> Result<(), PinError> {
    let failed = |errno: Errno| PinError::call("look at", root, errno.into());
    let is_bpf = |path: &Path| statfs(path).is_ok_and(|at| at.filesystem_type() == BPF_FS_MAGIC);
    let there = root
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or_else(|| Path::new("/"));
    let path = root.to_owned();
    if statfs(there).map_err(failed)?.filesystem_type() != BPF_FS_MAGIC {
        return Err(PinError::NotBpf { path });
    }
    let flags = statvfs(there).map_err(failed)?.flags();
    if flags.contains(FsFlags::ST_RDONLY) {
        return Err(PinError::ReadOnly { path });
    }
    for above in there.ancestors().take_while(|above| is_bpf(above)) {
        let found = fs::symlink_metadata(above);
        let found = found.map_err(|source| PinError::call("look at", above, source))?;
        if found.is_symlink() {
            let path = above.to_owned();
            return Err(PinError::NoDirectory { path });
        }
        // In a sticky directory nobody can rename what is ours. That is how `mount -t bpf` makes it.
        let shared = above != root && found.mode() & STICKY != 0;
        let refused = if shared { 0 } else { OTHERS_WRITE };
        trusted(above, found.uid(), found.mode(), refused)?;
    }
    Ok(())
}

/// Holds that a directory belongs to root or this process's user, and that none of these mode bits
/// is set.
fn trusted(path: &Path, owner: u32, mode: u32, refused: u32) -> Result<(), PinError> {
    if is_trusted(owner) && mode & refused == 0 {
        return Ok(());
    }
    Err(PinError::Untrusted {
        path: path.to_owned(),
        owner,
        mode: mode & 0o7777,
    })
}

/// True for root and for the user of this process.
pub(crate) fn is_trusted(user: u32) -> bool {
    user == 0 || user == geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_own_pins() {
        let path = Path::new("/sys/fs/bpf/lpm");
        assert!(trusted(path, 0, 0o40_755, OTHERS_WRITE).is_ok());
        assert!(trusted(path, geteuid().as_raw(), 0o40_700, OTHERS_WRITE).is_ok());
        for (owner, mode) in [(65_534, 0o40_700), (0, 0o40_775), (0, 0o41_777)] {
            let refused = trusted(path, owner, mode, OTHERS_WRITE).expect_err("not trusted");
            let said = refused.to_string();
            assert!(
                said.contains(&format!("user {owner}")) && said.contains("chown"),
                "{said}"
            );
        }
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let place = tempfile::tempdir().expect("a directory");
        let link = place.path().join("link");
        std::os::unix::fs::symlink("/", &link).expect("a link");
        for path in [link.clone(), link.join("")] {
            let refused = Directory::open_at(AT_FDCWD, path.as_os_str(), &path);
            let said = refused.expect_err("a link").to_string();
            assert!(said.contains("symbolic link"), "{said}");
        }
        assert!(Directory::look(place.path()).expect("look").is_none());
        let gone = place.path().join("gone");
        assert!(Directory::look(&gone).expect("look").is_none());
    }
}
