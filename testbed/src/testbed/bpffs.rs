//! A BPF file system that vanishes with its guard.

use std::{path::Path, process::Command};

use tempfile::TempDir;

use super::{Error, netns::run};

/// A BPF file system of our own, where programs and maps can be pinned; unmounted on drop.
#[derive(Debug)]
pub struct Bpffs(TempDir);

impl Bpffs {
    /// Mounts one with these options of `mount -t bpf`, such as `mode=0700`.
    pub fn mount(options: &str) -> Result<Self, Error> {
        let directory = tempfile::tempdir()
            .map_err(|source| Error::system("cannot make a temporary directory", source))?;
        let mut command = Command::new("mount");
        command.args(["-t", "bpf", "-o", options, "none"]);
        run(command.arg(directory.path()))?;
        Ok(Self(directory))
    }

    /// The directory at which the file system is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        // If this fails, so does removing the directory, and both stay to be seen.
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}
