//! The programs that tests call, for a guest of another architecture. They are Debian's packages,
//! unpacked under `target/kernels` and never configured. In the guest they lie over the host's
//! files.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::apt::{self, Apt};
use crate::{arch::Arch, paths};

/// Packages with what the guest's tests, their scripts and the oracle call.
const PACKAGES: [&str; 15] = [
    "busybox-static",
    "coreutils",
    "dash",
    "ethtool",
    "grep",
    "iproute2",
    "iputils-ping",
    "mount",
    "nftables",
    "procps",
    "python3",
    "sed",
    "tcpdump",
    "tshark",
    "util-linux",
];

/// Debian's suite that the packages come from.
const SUITE: &str = "bookworm";

/// Programs for guests of an architecture.
pub(super) struct Userland {
    /// The root of the unpacked packages.
    pub(super) root: PathBuf,
}

impl Userland {
    /// Gets the programs, from the cache if they are there.
    ///
    /// # Errors
    /// When the mirror cannot be reached.
    pub(super) fn get(arch: Arch) -> Result<Self> {
        let dir = paths::target()
            .join("kernels")
            .join(format!("programs-{}", arch.name()));
        let root = dir.join("root");
        let complete = dir.join("complete");
        if !complete.is_file() {
            if root.exists() {
                fs::remove_dir_all(&root)
                    .with_context(|| format!("cannot empty {}", root.display()))?;
            }
            merged(&root)?;
            println!(
                "test: getting Debian's programs for {}, into {}",
                arch.name(),
                root.display()
            );
            let sources = [format!("{} {SUITE}", apt::archive(false)?)];
            let apt = Apt::new(&sources, arch, &dir)?;
            apt.run("apt-get", &["update", "--quiet"])?;
            apt.unpack(&PACKAGES, true, &root)?;
            // dash's is made when it is configured.
            if !root.join("usr/bin/sh").exists() {
                symlink("dash", root.join("usr/bin/sh"))?;
            }
            fs::write(&complete, "")?;
        }
        Ok(Self { root })
    }

    /// Path of a busybox that needs no libraries.
    pub(super) fn busybox(&self) -> PathBuf {
        self.root.join("usr/bin/busybox")
    }
}

/// `bin`, `lib` and `sbin` as links into `usr`, as in every Debian since 12.
fn merged(root: &Path) -> Result<()> {
    for place in ["bin", "lib", "sbin"] {
        let inside = Path::new("usr").join(place);
        fs::create_dir_all(root.join(&inside))
            .with_context(|| format!("cannot make {}", root.display()))?;
        symlink(&inside, root.join(place))?;
    }
    Ok(())
}
