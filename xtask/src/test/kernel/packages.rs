//! Debian's cloud kernels: found, fetched and verified by apt with a configuration of its own, so
//! that the system's sources and lists stay as they are, and unpacked under `target/kernels`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::apt::{self, Apt};
use crate::{arch::Arch, paths, process};

/// Where a series of kernels comes from: the suite, and whether it is in the security archive.
struct Source {
    series: &'static str,
    suite: &'static str,
    security: bool,
}

/// The series that a stable release of Debian carries. All others are looked for in [`NEWER`].
const SOURCES: [Source; 3] = [
    Source {
        series: "5.10",
        suite: "bullseye-security",
        security: true,
    },
    Source {
        series: "6.1",
        suite: "bookworm",
        security: false,
    },
    Source {
        series: "6.12",
        suite: "trixie",
        security: false,
    },
];

/// The suite in which newer series come and go.
const NEWER: &str = "trixie-backports";

/// A kernel ready to boot.
pub(crate) struct Kernel {
    /// The compressed image.
    pub(crate) image: PathBuf,
    /// Directory `/lib/modules/<release>` of the kernel, with `modules.dep`.
    pub(crate) modules: PathBuf,
    /// The package's version, such as `5.10.262-1`.
    pub(crate) version: String,
}

/// Directory in which the kernels of a series are kept.
pub(crate) fn place(series: &str, arch: Arch) -> PathBuf {
    let name = match arch {
        Arch::Amd64 => series.to_owned(),
        Arch::Arm64 => format!("{series}-{}", arch.name()),
    };
    paths::target().join("kernels").join(name)
}

/// Gets the newest cloud kernel of `series` (`5.10`), or the newest of all (`newest`), from the
/// cache if the lists were read before.
///
/// # Errors
/// When the mirror cannot be reached or has no such kernel.
pub(crate) fn get(series: &str, arch: Arch, busybox: &Path) -> Result<Kernel> {
    let dir = place(series, arch);
    let root = dir.join("root");
    let complete = dir.join("complete");
    if !complete.is_file() {
        if root.exists() {
            fs::remove_dir_all(&root)
                .with_context(|| format!("cannot empty {}", root.display()))?;
        }
        fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
        let version = fetch(series, arch, &dir, &root)?;
        let modules = modules(&root)?;
        let release = modules.file_name().context("a release")?;
        let base = modules.ancestors().nth(3).context("lib/modules")?;
        process::run(
            Command::new(busybox)
                .arg("depmod")
                .arg("-b")
                .arg(base)
                .arg(release),
        )?;
        fs::write(&complete, version)?;
    }
    let modules = modules(&root)?;
    Ok(Kernel {
        image: image(&root, &modules)?,
        modules,
        version: fs::read_to_string(&complete)?,
    })
}

/// Downloads and unpacks a kernel. Returns its version.
fn fetch(series: &str, arch: Arch, dir: &Path, root: &Path) -> Result<String> {
    let apt = Apt::new(&[source(series)?], arch, dir)?;
    apt.run("apt-get", &["update", "--quiet"])?;
    let package = newest(&apt, series, arch)?;
    let shown = apt.output("apt-cache", &["show", "--no-all-versions", &package])?;
    let field = |name: &str| shown.lines().find_map(|line| line.strip_prefix(name));
    let version = field("Version: ").context("apt-cache show tells no version")?;
    // Since 7.0 image and modules are packages of their own, of the same version.
    let depends = field("Depends: ").unwrap_or_default().to_owned();
    let parts = depends
        .split(", ")
        .filter_map(|part| part.split(' ').next())
        .filter(|name| name.starts_with("linux-binary-") || name.starts_with("linux-modules-"));
    let mut wanted = vec![package.as_str()];
    wanted.extend(parts);
    apt.unpack(&wanted, false, root)?;
    Ok(version.to_owned())
}

/// The name of the newest image package of a series.
fn newest(apt: &Apt, series: &str, arch: Arch) -> Result<String> {
    let names = apt.output("apt-cache", &["pkgnames", "linux-image-"])?;
    let found = names
        .lines()
        .filter_map(|name| Some((release(name, arch)?, name)))
        .filter(|(release, _)| series == "newest" || in_series(release, series))
        .max();
    match found {
        Some((_, name)) => Ok(name.to_owned()),
        None => bail!(
            "Debian has no cloud kernel of the series {series} for {} in {}",
            arch.name(),
            source(series)?
        ),
    }
}

/// Finds `lib/modules/<release>` or `usr/lib/modules/<release>` in an unpacked package.
fn modules(root: &Path) -> Result<PathBuf> {
    ["lib/modules", "usr/lib/modules"]
        .iter()
        .filter_map(|place| fs::read_dir(root.join(place)).ok()?.next())
        .find_map(|entry| Some(entry.ok()?.path()))
        .with_context(|| format!("no modules in {}", root.display()))
}

/// Finds `boot/vmlinuz-<release>`, or `vmlinuz` beside the modules.
fn image(root: &Path, modules: &Path) -> Result<PathBuf> {
    let release = modules.file_name().unwrap_or_default().to_string_lossy();
    let places = [
        root.join(format!("boot/vmlinuz-{release}")),
        modules.join("vmlinuz"),
    ];
    places
        .into_iter()
        .find(|place| place.is_file())
        .with_context(|| format!("no kernel image in {}", root.display()))
}

/// The source (`<archive> <suite>`) of a series.
fn source(series: &str) -> Result<String> {
    let known = SOURCES.iter().find(|source| source.series == series);
    let suite = known.map_or(NEWER, |source| source.suite);
    let archive = apt::archive(known.is_some_and(|source| source.security))?;
    Ok(format!("{archive} {suite}"))
}

/// The numbers of a release: `linux-image-6.12.107+deb13-cloud-amd64` is `[6, 12, 107, 13]`. None:
/// the package names no release, like `linux-image-cloud-amd64`, or is no plain build.
fn release(package: &str, arch: Arch) -> Option<Vec<u32>> {
    let rest = package
        .strip_prefix("linux-image-")?
        .strip_suffix(arch.name())?
        .strip_suffix("-cloud-")?;
    if rest.contains("rc") || rest.contains("rt") {
        return None;
    }
    let numbers: Vec<u32> = rest
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect();
    (numbers.len() > 2).then_some(numbers)
}

fn in_series(release: &[u32], series: &str) -> bool {
    let wanted: Option<Vec<u32>> = series.split('.').map(|part| part.parse().ok()).collect();
    wanted.is_some_and(|wanted| release.starts_with(&wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_releases_by_their_numbers() {
        let of = |name: &str| release(&format!("linux-image-{name}-cloud-amd64"), Arch::Amd64);
        assert!(of("5.10.0-46") > of("5.10.0-9"));
        assert!(of("7.2.12+deb13") > of("7.2.9+deb13"));
        assert!(of("6.12.107+deb13") > of("6.12.94+deb13"));
        for none in [
            "linux-image-cloud-amd64",
            "linux-image-6.1-cloud-amd64",
            "linux-image-6.1.0-50-cloud-arm64",
        ] {
            assert_eq!(release(none, Arch::Amd64), None);
        }
        assert!(release("linux-image-6.1.0-50-cloud-arm64", Arch::Arm64).is_some());
    }

    #[test]
    fn a_series_is_its_first_numbers() {
        assert!(in_series(&[6, 1, 0, 50], "6.1"));
        assert!(!in_series(&[6, 12, 107, 13], "6.1"));
        assert!(!in_series(&[6, 1, 0], "six"));
    }
}
