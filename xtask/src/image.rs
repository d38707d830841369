//! `cargo xtask image`: the agent as a container image, without a container engine.
//!
//! The image holds one static binary and no more than it takes to run as any user: `/tmp`, two
//! users, the order of name resolution. If `cargo xtask build` has left a binary, the image takes
//! that one with the libraries that it loads, so nothing is compiled twice. The archive has the
//! format of `docker save`, which every engine imports.

mod archive;
mod binary;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::{arch::Arch, build, paths, setup};

/// Make a container image of the agent, without a container engine
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask image                             target/image/lpm.tar\n  \
    cargo xtask image --tag lpm:next --output /tmp/next.tar\n  \
    cargo xtask image --arch amd64 --arch arm64   one archive for each\n  \
    cargo xtask image --static                    without libraries, whatever is built already\n  \
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
    /// Do not build the kernel programs; use those of the last build
    #[arg(long)]
    keep_programs: bool,
    /// Compile a static binary even if `cargo xtask build` has built one that is not static
    #[arg(long = "static")]
    is_static: bool,
}

/// A profile of cargo's.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// Optimised, as shipped
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

/// Makes the image for tests in a cluster.
pub(crate) fn for_tests() -> Result<()> {
    main(&Args {
        tag: None,
        output: Some(paths::target().join("image/test.tar")),
        arch: Vec::new(),
        profile: Profile::Dev,
        keep_programs: false,
        is_static: false,
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
        bail!("--output names one archive, but each --arch makes its own: remove --output");
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

/// Makes the image for one architecture.
fn make(args: &Args, arch: Arch) -> Result<()> {
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
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("cannot empty {}", work.display()))?;
    }
    let written = binary::built(args.profile, arch, args.is_static, &work).and_then(|binary| {
        let image = archive::Image {
            tag: &tag,
            architecture: arch.name(),
            binary: &binary.program,
            libraries: &binary.libraries,
        };
        image.write(&work, &output)?;
        size(&binary.program)
    });
    // Nothing of it is needed afterwards, whether it worked or not.
    let _ = fs::remove_dir_all(&work);
    println!(
        "image: {tag}, {} ({} of it the binary), linux/{}: {}",
        size(&output)?,
        written?,
        arch.name(),
        output.display()
    );
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
    fn sizes_are_in_mebibytes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        fs::write(&file, vec![0; 3 << 19]).unwrap();
        assert_eq!(size(&file).unwrap(), "1.4 MiB");
    }
}
