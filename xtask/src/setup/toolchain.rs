//! The Rust toolchain that can build for the BPF target.
//!
//! No toolchain ships `core` for the target, so `core` is built from source (`-Zbuild-std`). That
//! needs a compiler with its own library's source beside it. rustup's nightly with `rust-src` is
//! one, and so is Debian's pair `rustc-web` and `rust-web-src`; a nightly without `rust-src` is
//! not.
//!
//! One fixed release is installed, and not the newest. bpf-linker must read what the compiler
//! writes, so it is built against the same LLVM, which Debian must have.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{Need, apt};
use crate::{paths, process};

/// The oldest compiler that the kernel crate's dependencies take (`rust-version`).
const OLDEST: (u32, u32) = (1, 95);

/// The release that is installed from rustup. Debian has the same one.
const RELEASE: &str = "1.96.0";

/// LLVM of that release, the newest that Debian has a package of.
const PACKAGED_LLVM: u32 = 22;

/// Time that rustup's server may take to answer before it counts as out of reach.
const REACH_SECONDS: &str = "10";

/// Place of the standard library's source below a compiler's own files.
const LIBRARY_SOURCE: &str = "lib/rustlib/src/rust/library";

/// A compiler that can build `core` for the BPF target, and the cargo that goes with it.
#[derive(Debug)]
pub(crate) struct Toolchain {
    /// The compiler itself, not rustup's proxy.
    pub(crate) rustc: PathBuf,
    cargo: Option<PathBuf>,
    clippy: Option<PathBuf>,
    /// Directory of the compiler's own files.
    sysroot: PathBuf,
    /// Major version of the compiler's LLVM. The linker must read what this LLVM writes.
    pub(crate) llvm: u32,
    /// The toolchain's name in rustup; None: it is not rustup's.
    name: Option<&'static str>,
    /// Whether the compiler is a stable one, which needs leave to use `-Z` options.
    stable: bool,
    description: String,
}

impl Toolchain {
    /// Makes a cargo command that uses this compiler for the BPF target, in the kernel crate's
    /// directory.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = match &self.cargo {
            Some(cargo) => {
                let mut command = Command::new(cargo);
                process::scrub(&mut command);
                command
            }
            None => process::cargo(),
        };
        command.current_dir(paths::root().join("lpm-ebpf"));
        command.env("RUSTC", &self.rustc);
        if self.stable {
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        command
    }

    /// The compiler's release, such as `1.96.0`.
    pub(crate) fn release(&self) -> Result<String> {
        let text = process::output(Command::new(&self.rustc).arg("-vV"))?;
        let release = field(&text, "release").context("rustc does not report its release")?;
        Ok(release.to_owned())
    }

    /// Directory of the standard library's source.
    pub(crate) fn library_source(&self) -> PathBuf {
        self.sysroot.join(LIBRARY_SOURCE)
    }

    /// The clippy that matches this compiler, if there is one.
    pub(crate) fn clippy(&self) -> Option<PathBuf> {
        self.clippy.clone().or_else(|| {
            let unpacked = paths::tools().join("usr/bin/clippy-driver");
            [unpacked, "/usr/bin/clippy-driver".into()]
                .into_iter()
                .find(|driver| self.is_debian() && same_release(driver, &self.rustc))
        })
    }

    fn is_debian(&self) -> bool {
        self.rustc == Path::new("/usr/bin/rustc")
    }

    fn inspect(rustc: &Path) -> std::result::Result<Self, String> {
        let text = process::output(Command::new(rustc).arg("-vV")).map_err(|e| format!("{e:#}"))?;
        let release = field(&text, "release").ok_or("it does not report its release")?;
        let (major, minor) = version(release).ok_or("its release is not a version number")?;
        if (major, minor) < OLDEST {
            return Err(format!("{release} is older than {}.{}", OLDEST.0, OLDEST.1));
        }
        let llvm = field(&text, "LLVM version").and_then(|v| v.split('.').next()?.parse().ok());
        let llvm = llvm.ok_or("it does not report its LLVM version")?;
        let sysroot = process::output(Command::new(rustc).args(["--print", "sysroot"]))
            .map_err(|e| format!("{e:#}"))?;
        let sysroot = Path::new(sysroot.trim());
        let core = sysroot.join(LIBRARY_SOURCE).join("core/src/lib.rs");
        if !core.is_file() {
            return Err(format!(
                "{release} lacks the source of `core` ({})",
                core.display()
            ));
        }
        let beside = |name: &str| Some(sysroot.join("bin").join(name)).filter(|p| p.is_file());
        let of_rustup = rustc != Path::new("/usr/bin/rustc");
        Ok(Self {
            rustc: rustc.to_owned(),
            cargo: beside("cargo").filter(|_| of_rustup),
            clippy: beside("clippy-driver").filter(|_| of_rustup),
            sysroot: sysroot.to_owned(),
            llvm,
            name: None,
            stable: !release.contains("nightly"),
            description: format!("rustc {release}, LLVM {llvm}, {}", rustc.display()),
        })
    }
}

/// Finds a toolchain that will do: the one that [`BpfToolchain`] installs, else rustup's active
/// one, else rustup's nightly, else Debian's.
pub(crate) fn find() -> std::result::Result<Toolchain, String> {
    let mut reasons = Vec::new();
    for (name, rustc) in candidates() {
        let shown = match name {
            None => "the system's",
            Some("") => "rustup's active",
            Some(name) => name,
        };
        match Toolchain::inspect(&rustc) {
            Ok(toolchain) if !has_linker(toolchain.llvm) => reasons.push(format!(
                "{shown}: there is no bpf-linker for its LLVM {}",
                toolchain.llvm
            )),
            Ok(toolchain) => return Ok(Toolchain { name, ..toolchain }),
            Err(reason) => reasons.push(format!("{shown}: {reason}")),
        }
    }
    if reasons.is_empty() {
        reasons.push("no rustup toolchain and no /usr/bin/rustc".to_owned());
    }
    Err(reasons.join("; "))
}

/// Whether there is a linker for this LLVM, or one can be built.
fn has_linker(llvm: u32) -> bool {
    llvm <= PACKAGED_LLVM || super::linker::may_read(llvm)
}

/// Lists compilers, with rustup's names for their toolchains.
fn candidates() -> Vec<(Option<&'static str>, PathBuf)> {
    let mut found = Vec::new();
    for name in [RELEASE, "", "nightly"] {
        let mut command = rustup();
        command.args(["which", "rustc"]);
        if !name.is_empty() {
            command.arg(format!("--toolchain={name}"));
        }
        if let Ok(path) = process::output(&mut command) {
            found.push((Some(name), PathBuf::from(path.trim())));
        }
    }
    let system = PathBuf::from("/usr/bin/rustc");
    if system.is_file() {
        found.push((None, system));
    }
    found
}

/// Makes a rustup command that never installs a toolchain just because it was asked about one.
fn rustup() -> Command {
    let mut command = Command::new("rustup");
    command.env("RUSTUP_AUTO_INSTALL", "0");
    command
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn same_release(driver: &Path, rustc: &Path) -> bool {
    let release = |program: &Path, args: &[&str]| {
        let text = process::output(Command::new(program).args(args)).ok()?;
        field(&text, "release").map(ToOwned::to_owned)
    };
    // With `--rustc` first, the driver answers as the compiler that it holds.
    driver.is_file() && release(driver, &["--rustc", "-vV"]) == release(rustc, &["-vV"])
}

/// Makes the need for a toolchain that builds for the BPF target.
pub(crate) struct BpfToolchain;

impl Need for BpfToolchain {
    fn name(&self) -> String {
        "eBPF toolchain".to_owned()
    }

    fn why(&self) -> &'static str {
        "builds the kernel programs, and `core` for them from its source"
    }

    fn probe(&self) -> std::result::Result<String, String> {
        find().map(|toolchain| toolchain.description)
    }

    fn how(&self) -> String {
        format!(
            "rustup's {RELEASE} with rust-src, beside your own, where rustup's server can be \
             reached, else Debian's rustc-web and rust-web-src"
        )
    }

    fn install(&self) -> Result<()> {
        let refused = match install_release() {
            Ok(()) => return Ok(()),
            Err(error) => format!("{error:#}"),
        };
        println!("setup: no {RELEASE} from rustup ({refused}); trying Debian's packages");
        apt::install(&["rustc-web", "rust-web-src"]).with_context(|| {
            format!(
                "neither rustup ({refused}) nor apt-get has an eBPF toolchain; either make \
                 {} reachable and run `rustup toolchain install {RELEASE} --profile minimal \
                 --component rust-src`, or install a rustc of {}.{} or later with its library \
                 source by hand",
                dist_server(),
                OLDEST.0,
                OLDEST.1
            )
        })
    }
}

fn dist_server() -> String {
    env::var("RUSTUP_DIST_SERVER").unwrap_or_else(|_| "https://static.rust-lang.org".to_owned())
}

fn install_release() -> Result<()> {
    if process::which("rustup").is_none() {
        bail!("rustup is not installed");
    }
    reach_rustup_server()?;
    // Also adds rust-src to one that is there without it.
    process::run(rustup().args([
        "toolchain",
        "install",
        RELEASE,
        "--profile=minimal",
        "--component=rust-src",
        "--no-self-update",
    ]))
}

/// Checks that rustup's server answers, by asking for one small file. rustup itself retries for
/// minutes when its server is out of reach.
fn reach_rustup_server() -> Result<()> {
    if process::which("curl").is_none() {
        return Ok(());
    }
    let url = format!("{}/dist/channel-rust-{RELEASE}.toml.sha256", dist_server());
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--fail",
        "--location",
        "--max-time",
        REACH_SECONDS,
    ]);
    let answer = process::output(curl.arg(url))?;
    let hash = answer.split_whitespace().next().unwrap_or_default();
    if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        bail!("{} answers, but not as rustup's server does", dist_server());
    }
    Ok(())
}

/// Makes the need for the clippy that matches the eBPF toolchain.
pub(crate) struct BpfClippy;

impl Need for BpfClippy {
    fn name(&self) -> String {
        "clippy for the kernel programs".to_owned()
    }

    fn why(&self) -> &'static str {
        "checks the lints of lpm-ebpf, with the compiler that builds it"
    }

    fn probe(&self) -> std::result::Result<String, String> {
        let toolchain = find()?;
        let driver = toolchain
            .clippy()
            .ok_or("the eBPF toolchain has no clippy")?;
        Ok(driver.display().to_string())
    }

    fn how(&self) -> String {
        "`rustup component add clippy`, or unpacked from Debian's rust-web-clippy into target/tools"
            .to_owned()
    }

    fn install(&self) -> Result<()> {
        let toolchain = find().map_err(anyhow::Error::msg)?;
        if toolchain.is_debian() {
            // Unpacked, because the package conflicts with one named rustup.
            return apt::unpack("rust-web-clippy");
        }
        let mut add = rustup();
        add.args(["component", "add", "clippy"]);
        if let Some(name) = toolchain.name.filter(|name| !name.is_empty()) {
            add.args(["--toolchain", name]);
        }
        process::run(&mut add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_rustc_says_of_itself() {
        let text = "rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(field(text, "release"), Some("1.96.0"));
        assert_eq!(field(text, "LLVM version"), Some("22.1.8"));
        assert_eq!(field(text, "host"), None);
        assert_eq!(version("1.97.0-nightly"), Some((1, 97)));
        assert_eq!(version("nonsense"), None);
    }

    #[test]
    fn a_compiler_without_library_source_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let rustc = dir.path().join("rustc");
        let script = "#!/bin/sh\nif [ $1 = -vV ]; then echo 'release: 1.99.0'; \
                      echo 'LLVM version: 22.1.8'; else dirname $0; fi\n";
        std::fs::write(&rustc, script).unwrap();
        process::run(Command::new("chmod").arg("+x").arg(&rustc)).unwrap();
        let reason = Toolchain::inspect(&rustc).unwrap_err();
        assert!(reason.contains("lacks the source of `core`"), "{reason}");
    }
}
