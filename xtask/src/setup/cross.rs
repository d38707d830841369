//! The needs for compiling for the other architecture: Rust's standard library for it, a C compiler
//! and its C library.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use super::{Need, apt};
use crate::{
    arch::{self, Arch},
    process,
};

/// All needs for compiling for `arch`.
pub(super) fn needs(arch: Arch) -> Vec<Box<dyn Need>> {
    vec![
        Box::new(Std(arch)),
        Box::new(CCompiler(arch)),
        Box::new(CLibrary(arch)),
    ]
}

/// Rust's standard library.
struct Std(Arch);

impl Need for Std {
    fn name(&self) -> String {
        format!("Rust's library for {}", self.0.gnu())
    }

    fn why(&self) -> &'static str {
        "compiles the agent for the other architecture"
    }

    fn probe(&self) -> std::result::Result<String, String> {
        arch::std_library(&self.0.gnu())
            .map(|dir| dir.display().to_string())
            .ok_or_else(|| "the active Rust does not have it".to_owned())
    }

    fn how(&self) -> String {
        format!("`rustup target add {}`", self.0.gnu())
    }

    fn install(&self) -> Result<()> {
        let mut command = Command::new("rustup");
        command.args(["target", "add", &self.0.gnu()]);
        process::run(command.current_dir(crate::paths::root())).with_context(|| {
            format!(
                "rustup's server must be reachable; a Rust that is not rustup's needs the package \
                 with its library for {}",
                self.0.gnu()
            )
        })
    }
}

/// The C compiler: it compiles the C parts of TLS, and links.
struct CCompiler(Arch);

impl CCompiler {
    fn package(&self) -> String {
        format!("gcc-{}-linux-gnu", self.0.cpu().replace('_', "-"))
    }
}

impl Need for CCompiler {
    fn name(&self) -> String {
        self.0.c_compiler()
    }

    fn why(&self) -> &'static str {
        "links for the other architecture"
    }

    fn probe(&self) -> std::result::Result<String, String> {
        process::which(&self.0.c_compiler())
            .map(|path| path.display().to_string())
            .ok_or_else(|| "not on PATH".to_owned())
    }

    fn how(&self) -> String {
        format!("`apt-get install {}`", self.package())
    }

    fn install(&self) -> Result<()> {
        apt::install(&[&self.package()])
    }
}

/// The C library as an archive.
struct CLibrary(Arch);

impl CLibrary {
    fn package(&self) -> String {
        format!("libc6-dev-{}-cross", self.0.name())
    }
}

impl Need for CLibrary {
    fn name(&self) -> String {
        format!("a static C library for {}", self.0.cpu())
    }

    fn why(&self) -> &'static str {
        "is linked into the agent, as its image has no libraries"
    }

    fn probe(&self) -> std::result::Result<String, String> {
        let file = PathBuf::from(format!("/usr/{}-linux-gnu/lib/libc.a", self.0.cpu()));
        if file.is_file() {
            Ok(file.display().to_string())
        } else {
            Err(format!("no {}", file.display()))
        }
    }

    fn how(&self) -> String {
        format!("`apt-get install {}`", self.package())
    }

    fn install(&self) -> Result<()> {
        apt::install(&[&self.package()])
    }
}
