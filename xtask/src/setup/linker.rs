//! Finds or installs bpf-linker, which turns the compiler's bitcode into one BPF object with BTF.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{Need, apt, toolchain};
use crate::{paths, process};

/// The version of bpf-linker that is installed.
const VERSION: &str = "0.13.0";

/// The LLVM versions that [`VERSION`] has a cargo feature for.
const LLVM_FEATURES: std::ops::RangeInclusive<u32> = 21..=23;

/// An empty crate: enough to see whether the linker reads what the compiler writes.
const PROBE: &str = "#![feature(no_core)]\n#![no_core]\n#![allow(internal_features)]\n";

/// Finds a bpf-linker that reads what the eBPF toolchain writes, on PATH or in cargo's `bin`.
pub(crate) fn find() -> std::result::Result<PathBuf, String> {
    let toolchain = toolchain::find()?;
    let mut reasons = Vec::new();
    for linker in candidates() {
        match reads_bitcode_of(&linker, &toolchain.rustc) {
            Ok(()) => return Ok(linker),
            Err(error) => reasons.push(format!("{}: {error:#}", linker.display())),
        }
    }
    if reasons.is_empty() {
        reasons.push("not on PATH and not in cargo's bin".to_owned());
    }
    Err(reasons.join("; "))
}

/// Whether there can be a linker that reads the output of a compiler with this LLVM: some linker is
/// there, or what one is built from.
pub(super) fn may_read(llvm: u32) -> bool {
    !candidates().is_empty()
        || (LLVM_FEATURES.contains(&llvm)
            && (env::var_os("LLVM_PREFIX").is_some() || development(llvm).is_some()))
}

/// Debian's development files of an LLVM, if they are there.
fn development(llvm: u32) -> Option<PathBuf> {
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    prefix.join("include/llvm-c").is_dir().then_some(prefix)
}

fn candidates() -> Vec<PathBuf> {
    let mut dirs = process::search_path();
    dirs.extend(process::cargo_home().map(|home| home.join("bin")));
    let mut found: Vec<PathBuf> = dirs
        .iter()
        .map(|dir| dir.join("bpf-linker"))
        .filter(|file| file.is_file())
        .collect();
    found.dedup();
    found
}

fn reads_bitcode_of(linker: &Path, rustc: &Path) -> Result<()> {
    let dir = paths::target().join("bpf-probe");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let (source, bitcode, object) = (dir.join("p.rs"), dir.join("p.bc"), dir.join("p.o"));
    fs::write(&source, PROBE).with_context(|| format!("cannot write {}", source.display()))?;
    let mut compile = Command::new(rustc);
    compile.env("RUSTC_BOOTSTRAP", "1");
    compile.args([
        "--target=bpfel-unknown-none",
        "--crate-type=lib",
        "--emit=llvm-bc",
        "-o",
    ]);
    process::output(compile.arg(&bitcode).arg(&source))?;
    process::output(
        Command::new(linker)
            .arg("--output")
            .arg(&object)
            .arg(&bitcode),
    )?;
    Ok(())
}

/// Makes the need for the linker.
pub(crate) struct BpfLinker;

impl Need for BpfLinker {
    fn name(&self) -> String {
        "bpf-linker".to_owned()
    }

    fn why(&self) -> &'static str {
        "links the kernel programs and writes their BTF"
    }

    fn probe(&self) -> std::result::Result<String, String> {
        let linker = find()?;
        let version = process::output(Command::new(&linker).arg("--version"))
            .map_err(|error| format!("{error:#}"))?;
        Ok(format!("{}, {}", version.trim(), linker.display()))
    }

    fn how(&self) -> String {
        match toolchain::find() {
            Ok(toolchain) => format!(
                "`cargo install bpf-linker --version {VERSION}` against llvm-{}-dev, which apt-get \
                 installs first; takes a minute or two",
                toolchain.llvm
            ),
            Err(_) => "once there is an eBPF toolchain".to_owned(),
        }
    }

    fn install(&self) -> Result<()> {
        let llvm = toolchain::find().map_err(anyhow::Error::msg)?.llvm;
        if !LLVM_FEATURES.contains(&llvm) {
            bail!(
                "bpf-linker {VERSION} builds against LLVM {} to {}, and the toolchain has {llvm}: \
                 install a bpf-linker of that LLVM from \
                 https://github.com/aya-rs/bpf-linker/releases on PATH",
                LLVM_FEATURES.start(),
                LLVM_FEATURES.end()
            );
        }
        let prefix = llvm_prefix(llvm)?;
        let mut install = process::cargo();
        install.env("LLVM_PREFIX", &prefix);
        install.args([
            "install",
            "bpf-linker",
            "--version",
            VERSION,
            "--locked",
            "--force",
        ]);
        install
            .arg("--no-default-features")
            .arg(format!("--features=llvm-{llvm}"));
        // A directory of its own: the workspace's lock file and profile are none of its business.
        install.env("CARGO_TARGET_DIR", paths::target().join("bpf-linker"));
        process::run(&mut install).with_context(|| {
            format!(
                "needs crates.io, a C compiler and LLVM {llvm} at {}",
                prefix.display()
            )
        })
    }
}

/// Finds LLVM's development files: `LLVM_PREFIX`, else Debian's package, installed if need be.
fn llvm_prefix(llvm: u32) -> Result<PathBuf> {
    if let Some(prefix) = env::var_os("LLVM_PREFIX") {
        return Ok(prefix.into());
    }
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    if development(llvm).is_none() {
        let package = format!("llvm-{llvm}-dev");
        println!("setup: getting {package}: bpf-linker links against it");
        apt::install(&[&package]).with_context(|| {
            format!(
                "no LLVM {llvm} for bpf-linker: add the suite of https://apt.llvm.org that has \
                 {package}, or set LLVM_PREFIX, or put a prebuilt bpf-linker from \
                 https://github.com/aya-rs/bpf-linker/releases on PATH"
            )
        })?;
    }
    Ok(prefix)
}
