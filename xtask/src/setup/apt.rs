//! Installs packages of Debian and its kin, and tools that cargo installs.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use super::Need;
use crate::{paths, process};

/// Installs `packages`. It never removes a package for that, and never asks the user.
///
/// # Errors
/// When this is no machine with apt-get, when a package is unknown even after an update, or when
/// installing fails.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    require_apt(packages)?;
    process::require_root_or_sudo(&format!("installing {}", packages.join(" ")))?;
    if !packages.iter().all(|package| is_known(package)) {
        update()?;
    }
    if let Some(unknown) = packages.iter().find(|package| !is_known(package)) {
        bail!("apt-get knows no package {unknown} on this release; install it by other means");
    }
    let mut install = apt_get();
    install.args(["install", "--yes", "--no-install-recommends", "--no-remove"]);
    if process::run(install.args(packages)).is_err() {
        // The lists may be older than what the mirror still has.
        update()?;
        process::run(&mut install)?;
    }
    Ok(())
}

/// Unpacks one package into the repository's own tools; apt verifies it as usual. Nothing of the
/// system changes, no service starts, no root is needed.
pub(crate) fn unpack(package: &str) -> Result<()> {
    require_apt(&[package])?;
    if !is_known(package) {
        process::require_root_or_sudo("updating apt's lists")?;
        update()?;
    }
    let dir = paths::target().join("packages").join(package);
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot empty {}", dir.display()))?;
    }
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let mut download = Command::new("apt-get");
    download
        .args(["download", "--quiet", package])
        .current_dir(&dir);
    process::run(&mut download)?;
    let file = fs::read_dir(&dir)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get download left no package in {}", dir.display()))?;
    fs::create_dir_all(paths::tools())?;
    process::run(
        Command::new("dpkg-deb")
            .arg("-x")
            .arg(&file)
            .arg(paths::tools()),
    )
}

/// The libraries that a package depends on, by the names they have on this release.
fn libraries(package: &str) -> Result<Vec<String>> {
    let mut command = Command::new("apt-cache");
    command.args([
        "depends",
        "--no-recommends",
        "--no-suggests",
        "--no-enhances",
    ]);
    let listed = process::output(command.arg(package))?;
    let names = listed
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "));
    Ok(names
        .filter(|name| name.starts_with("lib"))
        .map(str::to_owned)
        .collect())
}

fn require_apt(packages: &[&str]) -> Result<()> {
    if process::which("apt-get").is_none() {
        bail!(
            "there is no apt-get here: install what {} has with your package manager",
            packages.join(" and ")
        );
    }
    Ok(())
}

/// Whether apt's lists have a version of `package` to install.
fn is_known(package: &str) -> bool {
    let policy = process::output(Command::new("apt-cache").args(["policy", package]));
    policy.is_ok_and(|text| {
        let candidate = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("Candidate: "));
        candidate.is_some_and(|candidate| candidate != "(none)")
    })
}

fn update() -> Result<()> {
    println!("setup: apt-get update: its lists lack the package or are old");
    process::run(apt_get().arg("update")).context("check the network and /etc/apt/sources.list")
}

fn apt_get() -> Command {
    // `env` inside sudo, which does not hand on the caller's environment.
    let mut command = process::privileged("env");
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]);
    command.args(["-o", "DPkg::Lock::Timeout=300"]);
    command
}

/// A program from a package that is installed into the system.
pub(crate) struct Installed {
    program: &'static str,
    package: &'static str,
    why: &'static str,
}

impl Installed {
    /// Makes the need for `program`, which `package` has.
    pub(crate) fn boxed(
        program: &'static str,
        package: &'static str,
        why: &'static str,
    ) -> Box<dyn Need> {
        Box::new(Self {
            program,
            package,
            why,
        })
    }
}

impl Need for Installed {
    fn name(&self) -> String {
        self.program.to_owned()
    }

    fn why(&self) -> &'static str {
        self.why
    }

    fn probe(&self) -> std::result::Result<String, String> {
        find(self.program)
    }

    fn how(&self) -> String {
        format!("`apt-get install {}`", self.package)
    }

    fn install(&self) -> Result<()> {
        install(&[self.package])
    }
}

/// A program from a package that is only unpacked, into the repository's own tools.
pub(crate) struct Unpacked {
    program: &'static str,
    package: &'static str,
    why: &'static str,
    /// Whether to install the libraries that the program depends on, if they are missing.
    libraries: bool,
}

impl Unpacked {
    /// Makes the need for `program`, which `package` has.
    pub(crate) fn boxed(
        program: &'static str,
        package: &'static str,
        why: &'static str,
    ) -> Box<dyn Need> {
        Box::new(Self {
            program,
            package,
            why,
            libraries: false,
        })
    }

    /// Makes the need for a file that is no program, by its path below the tools.
    pub(crate) fn file(
        path: &'static str,
        package: &'static str,
        why: &'static str,
    ) -> Box<dyn Need> {
        Self::boxed(path, package, why)
    }

    /// Makes the need for a program whose libraries may be missing.
    pub(crate) fn with_libraries(
        program: &'static str,
        package: &'static str,
        why: &'static str,
    ) -> Box<dyn Need> {
        Box::new(Self {
            program,
            package,
            why,
            libraries: true,
        })
    }
}

impl Need for Unpacked {
    fn name(&self) -> String {
        self.program.to_owned()
    }

    fn why(&self) -> &'static str {
        self.why
    }

    fn probe(&self) -> std::result::Result<String, String> {
        if let Some(program) = paths::asset(self.program) {
            return Ok(program.display().to_string());
        }
        // By its path, if it is no program: unpacked by us, or installed.
        let places = [paths::tools(), PathBuf::from("/")];
        let file = places.map(|root| root.join(self.program));
        match file.iter().find(|file| file.is_file()) {
            Some(file) if self.program.contains('/') => Ok(file.display().to_string()),
            _ => find(self.program),
        }
    }

    fn how(&self) -> String {
        let libraries = if self.libraries {
            " (its libraries are)"
        } else {
            ""
        };
        format!(
            "unpacked from the package {} into target/tools, not installed{libraries}",
            self.package
        )
    }

    fn install(&self) -> Result<()> {
        if self.libraries {
            let libraries = libraries(self.package)?;
            install(&libraries.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        unpack(self.package)
    }
}

/// A program that cargo builds and installs.
pub(crate) struct CargoTool {
    program: &'static str,
    version: &'static str,
    /// Cargo's arguments for features that are not on by themselves.
    features: &'static [&'static str],
    why: &'static str,
}

impl CargoTool {
    /// Makes the need for cargo-deny.
    pub(crate) const DENY: Self = Self {
        program: "cargo-deny",
        version: "0.20.2",
        features: &[],
        why: "checks licences, duplicates and sources of the dependencies",
    };

    /// Makes the need for cargo-fuzz.
    pub(crate) const FUZZ: Self = Self {
        program: "cargo-fuzz",
        version: "0.13.2",
        features: &[],
        why: "builds and runs the fuzzers",
    };

    /// Makes the need for cargo-auditable.
    pub(crate) const AUDITABLE: Self = Self {
        program: "cargo-auditable",
        version: "0.7.7",
        features: &[],
        why: "writes into the agent which packages it was built of",
    };

    /// Makes the need for cargo-cyclonedx.
    pub(crate) const CYCLONEDX: Self = Self {
        program: "cargo-cyclonedx",
        version: "0.5.9",
        features: &[],
        why: "lists the packages beside the image",
    };

    /// Makes the need for the reader of what cargo-auditable wrote.
    pub(crate) const AUDIT_INFO: Self = Self {
        program: "rust-audit-info",
        version: "0.5.4",
        features: &[],
        why: "reads which packages the agent was built of",
    };

    /// Makes the need for cargo-about.
    pub(crate) const ABOUT: Self = Self {
        program: "cargo-about",
        version: "0.9.3",
        features: &["--features=cli"],
        why: "collects the licences for the image",
    };

    /// Makes the need for stamp-suite.
    pub(crate) const STAMP_SUITE: Self = Self {
        program: "stamp-suite",
        version: "1.0.0",
        features: &["--features=ttl-nix,hwtstamp"],
        why: "the STAMP sender and reflector that ours are held against",
    };
}

impl Need for CargoTool {
    fn name(&self) -> String {
        self.program.to_owned()
    }

    fn why(&self) -> &'static str {
        self.why
    }

    fn probe(&self) -> std::result::Result<String, String> {
        cargo_tool(self.program)
            .map(|path| path.display().to_string())
            .ok_or_else(|| "not on PATH and not in cargo's bin".to_owned())
    }

    fn how(&self) -> String {
        format!(
            "`cargo install {} --version {}`; takes minutes",
            self.program, self.version
        )
    }

    fn install(&self) -> Result<()> {
        let mut install = process::cargo();
        install.args([
            "install",
            self.program,
            "--version",
            self.version,
            "--locked",
        ]);
        install.args(self.features);
        install.env("CARGO_TARGET_DIR", paths::target().join(self.program));
        process::run(&mut install).context("needs crates.io and a C compiler")
    }
}

/// Finds a program on PATH or in cargo's `bin`.
pub(crate) fn cargo_tool(program: &str) -> Option<PathBuf> {
    process::which(program).or_else(|| {
        let file = process::cargo_home()?.join("bin").join(program);
        file.is_file().then_some(file)
    })
}

fn find(program: &str) -> std::result::Result<String, String> {
    process::which(program)
        .map(|path| path.display().to_string())
        .ok_or_else(|| "not on PATH".to_owned())
}
