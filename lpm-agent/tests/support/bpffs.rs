//! A place for pins that a test has for itself.

use std::{path::Path, process::Command};

/// A BPF file system; unmounted on drop.
pub(crate) struct Bpffs(tempfile::TempDir);

impl Bpffs {
    pub(crate) fn mount(options: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut command = Command::new("mount");
        command.args(["-t", "bpf", "-o", options, "none"]);
        assert!(
            command
                .arg(directory.path())
                .status()
                .expect("mount")
                .success()
        );
        Self(directory)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        // If this fails, so does removing the directory, and both stay to be seen.
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}
