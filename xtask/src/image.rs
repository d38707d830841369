//! `cargo xtask image`: the agent as a container image, without a container engine.
//!
//! One static binary, and around it no more than it takes to run as whoever one likes: `/tmp`, two
//! users, the order of name resolution. The archive is that of `docker save`, which every engine
//! imports.

mod archive;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use object::{Object as _, ObjectSection as _};

use crate::{
    arch::{self, Arch},
    build, paths, process, setup,
};

/// Make a container image of the agent, without a container engine
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask image                             target/image/lpm.tar\n  \
    cargo xtask image --tag lpm:next --output /tmp/next.tar\n  \
    cargo xtask image --arch amd64 --arch arm64   one archive for each\n  \
    ctr -n k8s.io images import target/image/lpm.tar")]
pub(crate) struct Args {
    /// The image's name and tag [default: lpm:VERSION]
    #[arg(long, value_name = "NAME:TAG")]
    tag: Option<String>,
    /// Where to write the archive [default: target/image/lpm.tar, lpm-arm64.tar for another
    /// architecture than this machine's]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// For which architecture, or several [default: this machine's]
    #[arg(long, value_enum, value_name = "ARCH")]
    arch: Vec<Arch>,
    /// How the agent is compiled
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
    /// Leave the kernel programs as they were built last
    #[arg(long)]
    keep_programs: bool,
}

/// A profile of cargo's.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// What is shipped
    Release,
    /// Compiled faster, for tests
    Dev,
}

impl Profile {
    fn as_str(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Dev => "dev",
        }
    }

    /// The directory of its output.
    fn directory(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Dev => "debug",
        }
    }
}

/// The image for tests in a cluster.
pub(crate) fn for_tests() -> Result<()> {
    main(&Args {
        tag: None,
        output: Some(paths::target().join("image/test.tar")),
        arch: Vec::new(),
        profile: Profile::Dev,
        keep_programs: false,
    })
}

/// The command `cargo xtask image`.
pub(crate) fn main(args: &Args) -> Result<()> {
    let mut archs = args.arch.clone();
    if archs.is_empty() {
        archs.push(Arch::host()?);
    }
    archs.dedup();
    if args.output.is_some() && archs.len() > 1 {
        bail!("--output names one archive, and there is one for each --arch: leave it out");
    }
    // The same bytes for every architecture.
    if !args.keep_programs || !paths::kernel_object("lpm").is_file() {
        build::programs_only()?;
    }
    for arch in archs {
        if !arch.is_host() {
            setup::ensure_cross(arch)?;
        }
        make(args, arch)?;
    }
    Ok(())
}

/// The image for one architecture.
fn make(args: &Args, arch: Arch) -> Result<()> {
    let binary = static_binary(args.profile, arch)?;
    let tag = args
        .tag
        .clone()
        .unwrap_or_else(|| format!("lpm:{}", env!("CARGO_PKG_VERSION")));
    let output = args.output.clone().unwrap_or_else(|| {
        let suffix = if arch.is_host() {
            String::new()
        } else {
            format!("-{}", arch.name())
        };
        paths::target().join(format!("image/lpm{suffix}.tar"))
    });
    let work = output.with_extension("work");
    let image = archive::Image {
        tag: &tag,
        architecture: arch.name(),
        binary: &binary,
    };
    let written = image.write(&work, &output);
    // Nothing of it is needed afterwards, whether it worked or not.
    let _ = fs::remove_dir_all(&work);
    written?;
    println!(
        "image: {tag}, {} ({} of it the binary), linux/{}: {}",
        size(&output)?,
        size(&binary)?,
        arch.name(),
        output.display()
    );
    Ok(())
}

/// The target to build for: on this machine's architecture musl's where it is installed with its C
/// compiler, which TLS needs; else glibc's, linked statically too.
fn target(arch: Arch) -> String {
    let musl = format!("{}-unknown-linux-musl", arch.cpu());
    let there = arch.is_host()
        && arch::std_library(&musl).is_some()
        && process::which("musl-gcc").is_some();
    if there { musl } else { arch.gnu() }
}

/// Builds `lpm` without any shared library.
fn static_binary(profile: Profile, arch: Arch) -> Result<PathBuf> {
    let target = target(arch);
    println!("image: lpm for {target}, profile {}", profile.as_str());
    let mut cargo = process::cargo();
    cargo.args(["build", "--package=lpm-agent", "--bin=lpm"]);
    cargo.args(["--profile", profile.as_str()]);
    arch::compile_for(&mut cargo, arch, &target);
    let key = profile.as_str().to_uppercase();
    cargo.env(format!("CARGO_PROFILE_{key}_STRIP"), "debuginfo");
    process::run(&mut cargo)?;
    let binary = arch::output_of(&target, profile.directory()).join("lpm");
    must_be_static(&binary)?;
    Ok(binary)
}

/// Fails when the binary wants a loader, which the image does not have.
fn must_be_static(binary: &Path) -> Result<()> {
    let bytes = fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
    let file = object::File::parse(bytes.as_slice())
        .with_context(|| format!("{} is no program", binary.display()))?;
    if let Some(loader) = file.section_by_name(".interp") {
        let loader = String::from_utf8_lossy(loader.data().unwrap_or_default()).into_owned();
        bail!(
            "{} wants the loader {}: it is not static, and the image has no libraries; build it \
             with a target whose C library is there as an archive (libc6-dev has libc.a)",
            binary.display(),
            loader.trim_end_matches('\0')
        );
    }
    Ok(())
}

fn size(file: &Path) -> Result<String> {
    let bytes = fs::metadata(file)
        .with_context(|| format!("cannot read {}", file.display()))?
        .len();
    let tenths = bytes / 104_858;
    Ok(format!("{}.{} MiB", tenths / 10, tenths % 10))
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
        assert!(error.unwrap_err().to_string().contains("no program"));
    }

    #[test]
    fn sizes_are_in_mebibytes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        fs::write(&file, vec![0; 3 << 19]).unwrap();
        assert_eq!(size(&file).unwrap(), "1.4 MiB");
    }
}
