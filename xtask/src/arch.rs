//! The architectures that the agent is built for, and how cargo is told to compile for one.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::{paths, process};

/// An architecture, by the name that images, Debian and Go have for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arch {
    /// `x86_64`
    Amd64,
    /// `aarch64`
    Arm64,
}

impl Arch {
    /// The architecture of this machine.
    ///
    /// # Errors
    /// When the agent is not built for this machine's architecture.
    pub(crate) fn host() -> Result<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => bail!("this machine is {other}; the agent is built for x86_64 and aarch64"),
        }
    }

    /// Whether this machine runs programs of the architecture.
    pub(crate) fn is_host(self) -> bool {
        self.cpu() == std::env::consts::ARCH
    }

    /// The architecture's name among images, in Debian and in Go.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The architecture's name in Rust, gcc and QEMU.
    pub(crate) fn cpu(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// Name of Rust's target with the GNU C library.
    pub(crate) fn gnu(self) -> String {
        format!("{}-unknown-linux-gnu", self.cpu())
    }

    /// Name of Debian's C compiler for the architecture. A compiler for another architecture is
    /// installed beside this machine's own.
    pub(crate) fn c_compiler(self) -> String {
        format!("{}-linux-gnu-gcc", self.cpu())
    }
}

/// The compiler's flag for a program that loads no library.
pub(crate) const STATIC: &str = "-Ctarget-feature=+crt-static";

/// Directory of the compiler's standard library for `target`, if the compiler has it.
pub(crate) fn std_library(target: &str) -> Option<PathBuf> {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "target-libdir", "--target", target]);
    let dir = process::output(rustc.current_dir(paths::root())).ok()?;
    let dir = PathBuf::from(dir.trim());
    dir.is_dir().then_some(dir)
}

/// Tells `cargo` to compile for `target` of `arch`, without any shared library.
pub(crate) fn compile_for(cargo: &mut Command, arch: Arch, target: &str) {
    cargo.args(["--target", target]);
    let key = target.to_uppercase().replace('-', "_");
    // With a target named, this is for the agent only, not for build scripts and macros, which
    // cannot be static.
    cargo.env(format!("CARGO_TARGET_{key}_RUSTFLAGS"), STATIC);
    cargo.env_remove("RUSTFLAGS");
    if !arch.is_host() {
        cargo.env(format!("CARGO_TARGET_{key}_LINKER"), arch.c_compiler());
        cargo.env(
            format!("CC_{}", target.replace('-', "_")),
            arch.c_compiler(),
        );
    }
}

/// Directory into which cargo puts what it compiles for `target` with a profile's `directory`.
pub(crate) fn output_of(target: &str, directory: &str) -> PathBuf {
    paths::target().join(Path::new(target)).join(directory)
}
