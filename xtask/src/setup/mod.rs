//! `cargo xtask setup`: finds or installs what building, running and testing need.
//!
//! A [`Need`] knows how to look for one thing and how to get it. Looking never changes anything.
//! What is installed, how and why is printed before it happens. A second run does nothing.

mod apt;
mod cross;
mod emulator;
mod linker;
mod scapy;
pub(crate) mod toolchain;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

pub(crate) use self::{
    apt::cargo_tool,
    emulator::{busybox, virtiofsd},
    linker::find as find_linker,
};
/// Installs Debian's packages.
pub(crate) fn apt_install(packages: &[&str]) -> Result<()> {
    apt::install(packages)
}

/// stamp-suite, on PATH or in cargo's `bin`.
pub(crate) fn stamp_suite() -> Option<std::path::PathBuf> {
    apt::cargo_tool("stamp-suite")
}

/// cargo-deny, on PATH or in cargo's `bin`.
pub(crate) fn cargo_deny() -> Option<std::path::PathBuf> {
    cargo_tool("cargo-deny")
}
use self::{
    apt::{CargoTool, Installed, Unpacked},
    linker::BpfLinker,
    toolchain::BpfToolchain,
};
use crate::arch::Arch;

/// Find or install what the other commands need.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask setup                 install what build, run and test need\n  \
    cargo xtask setup --check         report only; fails when something is missing\n  \
    cargo xtask setup --only build    what the build needs, and no more")]
pub(crate) struct Args {
    /// Report what is there and what is missing, and install nothing
    #[arg(long)]
    check: bool,
    /// Check or install only what these commands need
    #[arg(long, value_name = "COMMAND")]
    only: Vec<Part>,
}

/// The command that a need belongs to.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Building the kernel programs
    Build,
    /// The demo
    Run,
    /// The tests
    Test,
    /// The tests with other kernels
    Kernel,
    /// Building for the other architecture (arm64 on an amd64 machine)
    Cross,
    /// A real Kubernetes, and the tests against its API
    Cluster,
    /// A Prometheus for the tests in a cluster
    Prometheus,
    /// The fuzzers
    Fuzz,
    /// Looking for known flaws of the dependencies
    Advisories,
    /// An image for others: its lists of contents and licences
    Image,
    /// The tests of an image as it is released
    Release,
    /// The tests beside stamp-suite
    Interop,
}

/// One thing that must be on the machine.
pub(crate) trait Need {
    /// Name of the thing.
    fn name(&self) -> String;
    /// What the thing is for.
    fn why(&self) -> &'static str;
    /// Looks for the thing. Returns what was found and where, or why what is there will not do.
    fn probe(&self) -> std::result::Result<String, String>;
    /// Says in words how [`Need::install`] will get the thing.
    fn how(&self) -> String;
    /// Gets the thing.
    fn install(&self) -> Result<()>;
}

/// The command `cargo xtask setup`.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let all = [Part::Build, Part::Run, Part::Test, Part::Cluster];
    let parts: &[Part] = if args.only.is_empty() {
        &all
    } else {
        &args.only
    };
    if !args.check {
        ensure(parts)?;
        println!("setup: everything is there");
        return Ok(ExitCode::SUCCESS);
    }
    let missing = needs(parts)
        .iter()
        .filter(|need| !report(need.as_ref()))
        .count();
    if missing > 0 {
        println!("setup: {missing} missing; `cargo xtask setup` gets them");
        return Ok(ExitCode::FAILURE);
    }
    println!("setup: everything is there");
    Ok(ExitCode::SUCCESS)
}

/// Installs whatever `parts` lack.
pub(crate) fn ensure(parts: &[Part]) -> Result<()> {
    get(needs(parts))
}

/// Installs what is missing to compile for `arch`.
pub(crate) fn ensure_cross(arch: Arch) -> Result<()> {
    get(cross::needs(arch))
}

/// Installs what is missing to compile tests for machines of `arch`, and to emulate these.
pub(crate) fn ensure_guest(arch: Arch) -> Result<()> {
    ensure_cross(arch)?;
    get(emulator::guest(arch))
}

fn get(needs: Vec<Box<dyn Need>>) -> Result<()> {
    for need in needs {
        if report(need.as_ref()) {
            continue;
        }
        println!("setup: getting {}: {}", need.name(), need.how());
        need.install()
            .with_context(|| format!("could not get {}", need.name()))?;
        if let Err(reason) = need.probe() {
            bail!(
                "{} was installed but is still not usable: {reason}",
                need.name()
            );
        }
        report(need.as_ref());
    }
    Ok(())
}

/// Prints one line about `need`; true when it is there.
fn report(need: &dyn Need) -> bool {
    match need.probe() {
        Ok(found) => {
            println!("setup: ok       {}: {found}", need.name());
            true
        }
        Err(reason) => {
            println!("setup: missing  {} ({}): {reason}", need.name(), need.why());
            false
        }
    }
}

/// A program: its name, its package, and what it is for.
type Program = (&'static str, &'static str, &'static str);

const TESTBED: [Program; 2] = [
    ("ip", "iproute2", "lays out the namespaces of the testbed"),
    ("ethtool", "ethtool", "sets the testbed's offloads"),
];

const TESTS: [Program; 6] = [
    ("tcpdump", "tcpdump", "captures what the oracle checks"),
    (
        "tshark",
        "tshark",
        "reads captures, independently of our parser",
    ),
    ("python3", "python3", "runs the oracle"),
    (
        "ping",
        "iputils-ping",
        "sends the echo requests that `icmp` is held against",
    ),
    ("nft", "nftables", "translates addresses as kube-proxy does"),
    ("iperf3", "iperf3", "sends bulk traffic"),
];

fn installed(programs: &[Program]) -> impl Iterator<Item = Box<dyn Need>> {
    let programs = programs.iter().copied();
    programs.map(|(program, package, reason)| Installed::boxed(program, package, reason))
}

fn needs(parts: &[Part]) -> Vec<Box<dyn Need>> {
    let mut needs: Vec<Box<dyn Need>> = Vec::new();
    if parts.contains(&Part::Build) {
        needs.push(Box::new(BpfToolchain));
        needs.push(Box::new(BpfLinker));
    }
    if parts.contains(&Part::Run) || parts.contains(&Part::Test) {
        needs.extend(installed(&TESTBED));
    }
    if parts.contains(&Part::Test) {
        needs.push(Box::new(CargoComponent::RUSTFMT));
        needs.push(Box::new(CargoComponent::CLIPPY));
        needs.push(Box::new(toolchain::BpfClippy));
        needs.push(Box::new(CargoTool::DENY));
        needs.extend(installed(&TESTS));
        // Unpacked, because the packages would start servers.
        needs.push(Unpacked::with_libraries(
            "unbound",
            "unbound",
            "the resolver that `dns` is held against",
        ));
        needs.push(Unpacked::boxed(
            "promtool",
            "prometheus",
            "checks /metrics as Prometheus would",
        ));
        needs.push(Box::new(scapy::Scapy));
    }
    if parts.contains(&Part::Interop) {
        needs.push(Box::new(CargoTool::STAMP_SUITE));
    }
    if parts.contains(&Part::Kernel) {
        needs.extend(emulator::needs());
    }
    if parts.contains(&Part::Cross) {
        let other = if Arch::Arm64.is_host() {
            Arch::Amd64
        } else {
            Arch::Arm64
        };
        needs.extend(cross::needs(other));
    }
    if parts.contains(&Part::Fuzz) {
        needs.push(Box::new(CargoTool::FUZZ));
        needs.push(Installed::boxed("c++", "g++", "compiles libFuzzer"));
    }
    if parts.contains(&Part::Advisories) {
        needs.push(Box::new(CargoTool::DENY));
    }
    if parts.contains(&Part::Image) {
        needs.push(Box::new(CargoTool::AUDITABLE));
        needs.push(Box::new(CargoTool::CYCLONEDX));
        needs.push(Box::new(CargoTool::ABOUT));
    }
    if parts.contains(&Part::Release) {
        needs.push(Box::new(CargoTool::AUDIT_INFO));
        needs.push(Installed::boxed(
            "python3",
            "python3",
            "runs the validator of CycloneDX",
        ));
        needs.push(Box::new(PythonVenv));
    }
    if parts.contains(&Part::Cluster) {
        needs.extend(cluster());
    }
    if parts.contains(&Part::Prometheus) {
        needs.push(Box::new(crate::cluster::Toolchain));
        needs.push(crate::cluster::GoProgram::prometheus());
    }
    needs
}

/// The needs of a real Kubernetes. A package is only unpacked if installing it would start a server
/// or change how the system runs containers.
fn cluster() -> Vec<Box<dyn Need>> {
    let mut needs: Vec<Box<dyn Need>> = vec![
        Unpacked::boxed(
            "etcd",
            "etcd-server",
            "stores the objects of the API server",
        ),
        Unpacked::boxed("containerd", "containerd", "runs the containers of a node"),
        Unpacked::with_libraries("runc", "runc", "starts containers"),
        Unpacked::file(
            "usr/lib/cni/host-local",
            "containernetworking-plugins",
            "connects pods to their node",
        ),
        Installed::boxed(
            "iptables",
            "iptables",
            "kube-proxy and the pods' network use it",
        ),
        Installed::boxed(
            "conntrack",
            "conntrack",
            "kube-proxy forgets old connections by it",
        ),
        Installed::boxed("openssl", "openssl", "makes the keys of service accounts"),
        Box::new(crate::cluster::Toolchain),
    ];
    needs.extend(crate::cluster::GoProgram::all());
    needs
}

/// Python's module for environments, which Debian has in a package of its own.
struct PythonVenv;

impl Need for PythonVenv {
    fn name(&self) -> String {
        "Python's venv".to_owned()
    }

    fn why(&self) -> &'static str {
        "holds the validator of CycloneDX apart from the system"
    }

    fn probe(&self) -> std::result::Result<String, String> {
        let mut ask = std::process::Command::new("python3");
        ask.args(["-c", "import venv, ensurepip; print(venv.__file__)"]);
        let found = crate::process::output(&mut ask);
        let found = found.map_err(|_| "python3 has no venv or no ensurepip".to_owned())?;
        Ok(found.trim().to_owned())
    }

    fn how(&self) -> String {
        "`apt-get install python3-venv`".to_owned()
    }

    fn install(&self) -> Result<()> {
        apt::install(&["python3-venv"])
    }
}

/// A component of the active Rust toolchain.
struct CargoComponent {
    binary: &'static str,
    component: &'static str,
    why: &'static str,
}

impl CargoComponent {
    const RUSTFMT: Self = Self {
        binary: "rustfmt",
        component: "rustfmt",
        why: "checks the formatting",
    };
    const CLIPPY: Self = Self {
        binary: "clippy-driver",
        component: "clippy",
        why: "checks the lints",
    };
}

impl Need for CargoComponent {
    fn name(&self) -> String {
        self.component.to_owned()
    }

    fn why(&self) -> &'static str {
        self.why
    }

    fn probe(&self) -> std::result::Result<String, String> {
        let mut command = std::process::Command::new(self.binary);
        command.arg("--version");
        let version = crate::process::output(&mut command).map_err(|error| format!("{error:#}"))?;
        Ok(version.trim().to_owned())
    }

    fn how(&self) -> String {
        format!("`rustup component add {}`", self.component)
    }

    fn install(&self) -> Result<()> {
        let mut command = std::process::Command::new("rustup");
        command.args(["component", "add", self.component]);
        crate::process::run(&mut command)
            .context("install the component with the tool your Rust came from")
    }
}
