//! The agent's binary for an image: one that is built already, or a static one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use object::{Object as _, ObjectSection as _};

use super::{Args, Profile};
use crate::{
    arch::{self, Arch},
    build, paths, process,
};

/// A program and the files that it needs beside it.
pub(super) struct Binary {
    /// The program, without what is for debuggers.
    pub(super) program: PathBuf,
    /// The shared libraries that it loads and its loader, at the paths where it looks for them.
    pub(super) libraries: Vec<PathBuf>,
    /// The target that it was compiled for by name; None: this machine's own.
    pub(super) target: Option<String>,
}

/// Builds `lpm`; `work` is a directory for what this makes. Cargo compiles only what has changed.
pub(super) fn built(args: &Args, arch: Arch, work: &Path) -> Result<Binary> {
    let profile = args.profile;
    let target = target(arch);
    let plain = paths::target().join(profile.directory()).join("lpm");
    let other = arch::output_of(&target, profile.directory()).join("lpm");
    if args.is_static || !arch.is_host() || other.is_file() || !plain.is_file() {
        return static_binary(args, arch, &target, &other);
    }
    println!(
        "image: using {}, which is built already; `--static` compiles a binary that needs no \
         library",
        plain.display()
    );
    let mut cargo = process::cargo();
    cargo.arg("build");
    // As what built it, or cargo would find other features and compile the dependencies again.
    match profile {
        Profile::Release => cargo.args(["--release", "--package=lpm-agent"]),
        Profile::Dev => cargo.args(build::PROGRAMS).arg("--bin=lpm"),
    };
    process::run(&mut cargo)?;
    fs::create_dir_all(work).with_context(|| format!("cannot create {}", work.display()))?;
    let program = work.join("lpm");
    let mut strip = Command::new("strip");
    process::run(
        strip
            .arg("--strip-debug")
            .arg("-o")
            .arg(&program)
            .arg(&plain),
    )?;
    let libraries = libraries(&program)?;
    Ok(Binary {
        program,
        libraries,
        target: None,
    })
}

/// The libraries that a program loads, and its loader; none if it is static.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    if loader(program)?.is_none() {
        return Ok(Vec::new());
    }
    // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)`, `/lib64/ld-linux-x86-64.so.2 (0x...)`
    let listed = process::output(Command::new("ldd").arg(program))?;
    if let Some(missing) = listed.lines().find(|line| line.contains("not found")) {
        bail!(
            "{} needs a library that cannot be found: {}",
            program.display(),
            missing.trim()
        );
    }
    let words = listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    Ok(words.map(PathBuf::from).collect())
}

/// The target to build for. On this machine's architecture it is musl's if it is installed with its
/// C compiler, which TLS needs. Otherwise it is glibc's, linked statically, too.
fn target(arch: Arch) -> String {
    let musl = format!("{}-unknown-linux-musl", arch.cpu());
    let there = arch.is_host()
        && arch::std_library(&musl).is_some()
        && process::which("musl-gcc").is_some();
    if there { musl } else { arch.gnu() }
}

/// Builds `lpm` without any shared library, as `binary`.
///
/// A release has the same bytes wherever it is built: no path of the machine is in it. Unless the
/// image is to be bare, cargo-auditable writes into it which packages it was built of; it wraps the
/// compiler for the packages of the workspace, so no other is compiled again for that.
fn static_binary(args: &Args, arch: Arch, target: &str, binary: &Path) -> Result<Binary> {
    let profile = args.profile;
    let time = if binary.is_file() {
        "what has changed since the last one"
    } else {
        "five minutes on two cores, half an hour on a busy machine"
    };
    println!(
        "image: compiling lpm for {target}, profile {}: {time}",
        profile.as_str()
    );
    let mut cargo = process::cargo();
    if !args.bare {
        cargo.arg("auditable");
    }
    cargo.args(["build", "--locked", "--package=lpm-agent", "--bin=lpm"]);
    cargo.args(["--profile", profile.as_str()]);
    arch::compile_for(&mut cargo, arch, target);
    if profile == Profile::Release {
        let mut flags = vec![arch::STATIC.to_owned()];
        flags.extend(build::remapped(&[
            (Some(paths::root().to_owned()), "/lpm"),
            (Some(paths::target()), "/target"),
            (process::cargo_home(), "/cargo"),
        ]));
        // Comes before the flags of the target, and takes paths with spaces.
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    }
    let key = profile.as_str().to_uppercase();
    cargo.env(format!("CARGO_PROFILE_{key}_STRIP"), "debuginfo");
    process::run(&mut cargo)?;
    must_be_static(binary)?;
    Ok(Binary {
        program: binary.to_owned(),
        libraries: Vec::new(),
        target: Some(target.to_owned()),
    })
}

/// Fails when the binary wants a loader, which the image does not have.
fn must_be_static(binary: &Path) -> Result<()> {
    if let Some(loader) = loader(binary)? {
        bail!(
            "{} needs the loader {loader}, so it is not static, and the image has no libraries; \
             build it for a target with a static C library (libc6-dev has libc.a)",
            binary.display(),
        );
    }
    Ok(())
}

/// Path of the loader that a program wants; None: it is static.
fn loader(program: &Path) -> Result<Option<String>> {
    let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let file = object::File::parse(bytes.as_slice())
        .with_context(|| format!("{} is not a program", program.display()))?;
    let loader = file.section_by_name(".interp").map(|section| {
        let name = String::from_utf8_lossy(section.data().unwrap_or_default());
        name.trim_end_matches('\0').to_owned()
    });
    Ok(loader)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_a_loader_is_refused() {
        let this = std::env::current_exe().unwrap();
        let error = must_be_static(&this).unwrap_err().to_string();
        assert!(
            error.contains("not static") && error.contains("ld-"),
            "{error}"
        );
        let error = must_be_static(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("Cargo.toml")
                .as_path(),
        );
        assert!(error.unwrap_err().to_string().contains("not a program"));
    }

    #[test]
    fn libraries_are_those_that_it_loads() {
        let this = std::env::current_exe().unwrap();
        let found = libraries(&this).unwrap();
        assert!(found.iter().all(|library| library.is_file()), "{found:?}");
        let has = |name: &str| {
            found
                .iter()
                .any(|path| path.to_string_lossy().contains(name))
        };
        assert!(has("/libc.so") && has("/ld-"), "{found:?}");
    }
}
