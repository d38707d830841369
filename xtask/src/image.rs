//! `cargo xtask image`: the agent as a container image, without a container engine.
//!
//! The image holds one static binary and no more than it takes to run as any user: `/tmp`, two
//! users, the order of name resolution; besides, the lists of what it is made of and of the licences
//! ([`sbom`], [`licences`]). If `cargo xtask build` has left a binary, the image takes
//! that one with the libraries that it loads, so nothing is compiled twice. The archive has the
//! format of `docker save`, which every engine imports.

mod archive;
mod binary;
mod licences;
mod sbom;
mod system;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::{arch::Arch, build, paths, process, setup};

/// Make a container image of the agent, without a container engine
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask image                             target/image/lpm.tar\n  \
    cargo xtask image --tag lpm:next --output /tmp/next.tar\n  \
    cargo xtask image --arch amd64 --arch arm64   one archive for each\n  \
    cargo xtask image --static                    as released: without libraries, the same bytes again\n  \
    cargo xtask image --bare                      to try out: without the lists for who gets it\n  \
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
    /// Without the lists of contents (CycloneDX) and of licences, and without the list of packages
    /// in the binary: for an image that nobody else gets
    #[arg(long)]
    bare: bool,
    /// Write the image's files below this directory, and no archive
    #[arg(long, value_name = "DIR", conflicts_with_all = ["output", "tag"])]
    layout: Option<PathBuf>,
}

impl Args {
    /// The arguments for the image as it is released, to be written to `output`.
    pub(crate) fn released(output: PathBuf) -> Self {
        Self {
            tag: None,
            output: Some(output),
            arch: Vec::new(),
            profile: Profile::Release,
            keep_programs: false,
            is_static: true,
            bare: false,
            layout: None,
        }
    }
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
        profile: Profile::Dev,
        is_static: false,
        bare: true,
        ..Args::released(paths::target().join("image/test.tar"))
    })
}

/// The command `cargo xtask image`.
pub(crate) fn main(args: &Args) -> Result<()> {
    let mut archs = args.arch.clone();
    if archs.is_empty() {
        archs.push(Arch::host()?);
    }
    archs.dedup();
    if (args.output.is_some() || args.layout.is_some()) && archs.len() > 1 {
        bail!(
            "--output and --layout name one place, but each --arch makes an image: name one --arch"
        );
    }
    if !args.bare {
        setup::ensure(&[setup::Part::Image])?;
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
    let written = (|| {
        let binary = binary::built(args, arch, &work)?;
        let documents = if args.bare {
            Vec::new()
        } else {
            documents(&binary, arch, &output)?
        };
        let image = archive::Image {
            tag: &tag,
            architecture: arch.name(),
            binary: &binary.program,
            libraries: &binary.libraries,
            documents: &documents,
        };
        match &args.layout {
            Some(root) => image.lay_out(root)?,
            None => image.write(&work, &output)?,
        }
        size(&binary.program)
    })();
    // Nothing of it is needed afterwards, whether it worked or not.
    let _ = fs::remove_dir_all(&work);
    let written = written?;
    if let Some(root) = &args.layout {
        println!(
            "image: the files for linux/{} below {}",
            arch.name(),
            root.display()
        );
        return Ok(());
    }
    println!(
        "image: {tag}, {} ({written} of it the binary), linux/{}: {}",
        size(&output)?,
        arch.name(),
        output.display()
    );
    Ok(())
}

/// Writes the list of contents and the licences beside the archive. Both also go into the image.
fn documents(binary: &binary::Binary, arch: Arch, output: &Path) -> Result<Vec<PathBuf>> {
    let sbom = output.with_extension("cdx.json");
    let licences = output.with_extension("licenses.txt");
    if let Some(dir) = output.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    // The lists are made without the network, and ask for packages that no build for this target
    // has fetched.
    for manifest in ["Cargo.toml", "lpm-ebpf/Cargo.toml"] {
        let mut fetch = process::cargo();
        process::run(fetch.args(["fetch", "--quiet", "--locked", "--manifest-path", manifest]))?;
    }
    let target = binary.target.clone().unwrap_or_else(|| arch.gnu());
    sbom::write(binary, &target, archive::time(), &sbom)?;
    licences::write(binary, &target, &licences)?;
    println!("image: {}, {}", sbom.display(), licences.display());
    Ok(vec![sbom, licences])
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
    use std::process::Command;

    use super::*;

    #[test]
    fn a_release_is_built_on_a_base_with_a_digest() {
        let pinned = |version: &str, image: &str| {
            let script = paths::root().join("deploy/pinned.sh");
            process::output(Command::new(script).args([version, image]))
        };
        let digest = format!("rust:1@sha256:{}", "0a".repeat(32));
        assert!(pinned("dev", "rust:1").is_ok());
        assert!(pinned("0.1.0", &digest).is_ok());
        let wrong = digest.replace('a', "g");
        for image in ["rust:1", "rust:1@sha256:0a0a", wrong.as_str()] {
            let error = pinned("0.1.0", image).unwrap_err().to_string();
            assert!(error.contains("imagetools inspect"), "{image}: {error}");
        }
    }

    #[test]
    fn the_dockerfile_asks_before_it_builds_and_ends_with_nothing_else_in_the_image() {
        let file = paths::root().join("deploy/Dockerfile");
        let text = fs::read_to_string(file).unwrap();
        let lines = |word: &str| {
            let lines = text.lines().filter(|line| line.starts_with(word));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(
            lines("RUN ")[0],
            r#"RUN /pinned.sh "$VERSION" "$RUST_IMAGE""#
        );
        assert_eq!(
            lines("FROM "),
            [
                "FROM --platform=$BUILDPLATFORM ${RUST_IMAGE} AS build",
                "FROM scratch"
            ]
        );
    }

    #[test]
    fn sizes_are_in_mebibytes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        fs::write(&file, vec![0; 3 << 19]).unwrap();
        assert_eq!(size(&file).unwrap(), "1.4 MiB");
    }
}
