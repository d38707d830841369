//! The needs for booting other kernels: qemu, a file server for the guest, a static busybox, and
//! the keys of Debian's archive.

use std::path::PathBuf;

use anyhow::Result;

use super::{Need, apt};
use crate::{arch::Arch, paths, process};

/// A file that a package brings, in one of several places.
struct File {
    name: &'static str,
    why: &'static str,
    find: fn() -> Option<PathBuf>,
    package: &'static str,
    /// Whether the package goes into `target/tools` only: installed, it would replace another
    /// package.
    unpacked: bool,
}

/// All needs for emulation.
pub(super) fn needs() -> Vec<Box<dyn Need>> {
    vec![
        apt::Installed::boxed(
            "qemu-system-x86_64",
            "qemu-system-x86",
            "emulates machines with other kernels",
        ),
        Box::new(File {
            name: "virtiofsd",
            why: "lets an emulated machine read this one's files",
            find: virtiofsd,
            package: "virtiofsd",
            unpacked: false,
        }),
        Box::new(File {
            name: "a static busybox",
            why: "is an emulated machine's first program",
            find: busybox,
            package: "busybox-static",
            unpacked: true,
        }),
        Box::new(File {
            name: "the keys of Debian's archive",
            why: "verify the kernels to emulate",
            find: keyring,
            package: "debian-archive-keyring",
            unpacked: false,
        }),
        apt::Installed::boxed("xz", "xz-utils", "unpacks kernel modules"),
    ]
}

/// The needs for emulating a machine of another architecture than this machine's.
pub(super) fn guest(arch: Arch) -> Vec<Box<dyn Need>> {
    let (program, package) = match arch {
        Arch::Amd64 => ("qemu-system-x86_64", "qemu-system-x86"),
        Arch::Arm64 => ("qemu-system-aarch64", "qemu-system-arm"),
    };
    vec![apt::Installed::boxed(
        program,
        package,
        "emulates machines of another architecture",
    )]
}

/// Finds virtiofsd: part of qemu up to version 7, a package of its own since.
pub(crate) fn virtiofsd() -> Option<PathBuf> {
    let places = ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"];
    places
        .into_iter()
        .map(PathBuf::from)
        .find(|place| place.is_file())
}

/// Finds a busybox that needs no libraries. The one of the package `busybox` needs some.
pub(crate) fn busybox() -> Option<PathBuf> {
    let mut places = vec![
        paths::tools().join("bin/busybox"),
        paths::tools().join("usr/bin/busybox"),
    ];
    // Where the package busybox-static is installed.
    if PathBuf::from("/usr/share/doc/busybox-static").is_dir() {
        places.extend(["/usr/bin/busybox".into(), "/bin/busybox".into()]);
    }
    places.into_iter().find(|place| place.is_file())
}

fn keyring() -> Option<PathBuf> {
    Some(PathBuf::from(crate::test::KEYRING)).filter(|file| file.is_file())
}

impl Need for File {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn why(&self) -> &'static str {
        self.why
    }

    fn probe(&self) -> std::result::Result<String, String> {
        match (self.find)() {
            Some(place) => Ok(place.display().to_string()),
            None => Err("not found".to_owned()),
        }
    }

    fn how(&self) -> String {
        if self.unpacked {
            format!(
                "unpacked from the package {} into target/tools, not installed",
                self.package
            )
        } else {
            format!("`apt-get install {}`", self.package)
        }
    }

    fn install(&self) -> Result<()> {
        if self.unpacked {
            apt::unpack(self.package)
        } else {
            process::require_root_or_sudo(&format!("installing {}", self.package))?;
            apt::install(&[self.package])
        }
    }
}
