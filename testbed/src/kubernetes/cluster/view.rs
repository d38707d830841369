//! What a node sees of the machine's files: some directories are its own.
//!
//! A mount namespace in which they are in their usual places, so that a chart's host paths are
//! right on both nodes. It goes with its last process, and all that was mounted in it.

use std::{
    fs,
    io::{self, Error as IoError},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};

use super::{Error, places};

/// What a node has of its own: the directory among its files, and where it sees it.
const OWN: [(&str, &str); 4] = [
    ("bpf", "/sys/fs/bpf"),
    ("cni-state", "/var/lib/cni"),
    // The kubelet has no option for it.
    ("device-plugins", "/var/lib/kubelet/device-plugins"),
    ("container-logs", "/var/log/containers"),
];

/// Where containerd's shims make their sockets, which no option moves; [`super::remove`] knows them.
const SHIMS: &str = "/run/containerd/s";

/// Gives `command` a view of its own, of the node whose files are in `dir`, one of a cluster of those
/// below `clusters`.
pub(super) fn own(command: &mut Command, dir: &Path, clusters: &Path) -> Result<(), Error> {
    let make = |place: &Path| {
        places::make(clusters, place)
            .map_err(|source| Error::system(format!("make {}", place.display()), source))
    };
    make(Path::new(SHIMS))?;
    let mut pairs: Vec<(PathBuf, &Path)> = Vec::new();
    for (name, place) in OWN {
        let (own, place) = (dir.join(name), Path::new(place));
        fs::create_dir_all(&own)
            .map_err(|source| Error::system(format!("make {}", own.display()), source))?;
        make(place)?;
        pairs.push((own, place));
    }
    let enter = move || -> io::Result<()> {
        let nothing = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS)?;
        // What is mounted on the machine later is seen; what is mounted in here is not, there.
        mount(
            nothing,
            "/",
            nothing,
            MsFlags::MS_REC | MsFlags::MS_SLAVE,
            nothing,
        )?;
        for (own, place) in &pairs {
            mount(Some(own), *place, nothing, MsFlags::MS_BIND, nothing)?;
        }
        Ok(())
    };
    // SAFETY: system calls only; short paths are copied to the stack, so nothing is allocated
    // between fork and exec.
    unsafe {
        command.pre_exec(enter);
    }
    Ok(())
}

/// The view of a running process.
#[derive(Debug)]
pub(super) struct File(fs::File);

impl File {
    /// That of the process with this id.
    pub(super) fn of(pid: u32) -> Result<Self, Error> {
        let path = format!("/proc/{pid}/ns/mnt");
        let file = fs::File::open(&path);
        file.map(Self)
            .map_err(|source| Error::system(format!("open {path}"), source))
    }

    /// Gives it to `command`, too.
    pub(super) fn enter(&self, command: &mut Command) -> Result<(), Error> {
        let copy = self.0.try_clone();
        let copy = copy.map_err(|source| Error::system("copy a namespace's descriptor", source))?;
        // SAFETY: setns is one system call and allocates nothing.
        unsafe {
            command.pre_exec(move || setns(&copy, CloneFlags::CLONE_NEWNS).map_err(IoError::from));
        }
        Ok(())
    }
}
