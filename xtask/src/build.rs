//! `cargo xtask build`: the kernel programs with the eBPF toolchain, then the agent, which embeds
//! them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    object_check, paths, process,
    setup::{self, Part, toolchain},
    strip,
};

/// The target of the kernel programs.
pub(crate) const BPF_TARGET: &str = "bpfel-unknown-none";

/// The kernel objects that lpm-ebpf builds: the agent's, and the programs that the benchmark
/// compares with.
pub(crate) const OBJECTS: [&str; 2] = ["lpm", "lpm-bench"];

/// Cargo's arguments for the programs of the demo and of the tests, in the profile `dev`: the agent
/// and the testbed, with the features that the workspace's tests give to their dependencies. With
/// other arguments cargo would find other features, and compile the dependencies again.
pub(crate) const PROGRAMS: [&str; 3] = [
    "--package=lpm-agent",
    "--package=lpm-testbed",
    "--features=lpm-common/host,tokio/test-util",
];

/// Build the kernel programs and the agent.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask build                    target/release/lpm, kernel programs inside\n  \
    cargo xtask build --debug-programs   with the programs' log messages (aya-log)")]
pub(crate) struct Args {
    /// Let the kernel programs log through aya-log; slower, for debugging only
    #[arg(long)]
    debug_programs: bool,
    /// Build the kernel programs only
    #[arg(long)]
    programs_only: bool,
}

/// The command `cargo xtask build`.
pub(crate) fn main(args: &Args) -> Result<()> {
    setup::ensure(&[Part::Build])?;
    programs(args.debug_programs)?;
    if args.programs_only {
        return Ok(());
    }
    release_agent()
}

/// Builds the benchmark harness and what it measures, which the agent's users never need.
pub(crate) fn with_benchmark() -> Result<()> {
    setup::ensure(&[Part::Build])?;
    programs(false)?;
    let packages = [
        "--package=lpm-agent",
        "--package=lpm-testbed",
        "--package=lpm-bench",
    ];
    release(&packages, "the agent, the testbed and the benchmarks")
}

/// Builds the agent as it is shipped, and the testbed beside it.
pub(crate) fn with_testbed() -> Result<()> {
    setup::ensure(&[Part::Build])?;
    programs(false)?;
    let packages = ["--package=lpm-agent", "--package=lpm-testbed"];
    release(&packages, "the agent and the testbed")
}

/// Builds the agent as it is shipped.
pub(crate) fn release_agent() -> Result<()> {
    release(&["--package=lpm-agent"], "the agent")
}

/// Builds packages as they are shipped.
fn release(packages: &[&str], what: &str) -> Result<()> {
    let lpm = paths::release_binary("lpm");
    println!("build: {what}, optimised{}", first_time(&lpm));
    let mut build = process::cargo();
    process::run(build.args(["build", "--release"]).args(packages))?;
    println!("build: {}", lpm.display());
    Ok(())
}

/// Builds the kernel programs, the agent and the testbed for the demo and the tests.
///
/// The kernel programs are the shipped ones. The two programs have the profile `dev`, which the
/// tests share and which takes a fraction of the release build's time.
pub(crate) fn for_tests() -> Result<()> {
    setup::ensure(&[Part::Build])?;
    programs(false)?;
    let lpm = paths::dev_binary("lpm");
    println!("build: the agent and the testbed{}", first_time(&lpm));
    let mut build = process::cargo();
    process::run(build.arg("build").args(PROGRAMS))?;
    println!("build: {}", lpm.display());
    Ok(())
}

/// Says how long the first build of a program takes; empty if the program was built before.
fn first_time(program: &Path) -> &'static str {
    if program.is_file() {
        ""
    } else {
        ": some minutes the first time"
    }
}

/// Builds the kernel programs and no more: a test embeds them by itself.
pub(crate) fn kernel_programs() -> Result<()> {
    setup::ensure(&[Part::Build])?;
    programs(false)
}

/// Builds the kernel programs without the agent.
pub(crate) fn programs_only() -> Result<()> {
    programs(false)
}

/// Builds the kernel programs into `target/bpf`, and checks that old kernels can run them.
fn programs(debug: bool) -> Result<()> {
    let first = if paths::kernel_object("lpm").is_file() {
        ""
    } else {
        ": a minute the first time"
    };
    println!("build: the kernel programs{first}");
    let mut build = cargo_bpf("build")?;
    build.args(if debug { &["--features=log"][..] } else { &[] });
    process::run(&mut build)?;
    for name in OBJECTS {
        let object = shipped_object(&bpf_target(), name)?;
        put(&object, &paths::kernel_object(name))?;
        println!("build: {}", paths::kernel_object(name).display());
    }
    let found = object_check::check(&paths::kernel_object("lpm"))?;
    if !found.is_empty() {
        bail!(
            "Linux 5.10, or every kernel, would refuse the kernel object:\n  {}\nchange the source \
             so that the compiler does not need these",
            found.join("\n  ")
        );
    }
    Ok(())
}

/// Cargo's target directory for the kernel programs.
fn bpf_target() -> PathBuf {
    paths::target().join("bpf-build")
}

/// Makes the cargo command with the given subcommand (`build`, `check`) for the kernel programs.
pub(crate) fn cargo_bpf(subcommand: &str) -> Result<Command> {
    cargo_bpf_of(paths::root(), &bpf_target(), subcommand)
}

/// Makes the cargo command for the kernel programs of the sources below `root`, with a target
/// directory. No other place holds their compiler flags.
pub(crate) fn cargo_bpf_of(root: &Path, target: &Path, subcommand: &str) -> Result<Command> {
    let programs = root.join("lpm-ebpf");
    if !programs.join("Cargo.toml").is_file() {
        bail!("there is no lpm-ebpf/Cargo.toml: this checkout lacks the kernel programs");
    }
    let toolchain = toolchain::find()
        .map_err(anyhow::Error::msg)
        .context("no eBPF toolchain")?;
    let linker = setup::find_linker()
        .map_err(anyhow::Error::msg)
        .context("no bpf-linker")?;
    // What kernels from 5.10 on understand: 32-bit ALU and jumps, nothing of BPF version 4; rustc
    // hands the CPU on to the linker. BTF
    // comes from the debug information.
    let mut flags = vec![
        format!("-Clinker={}", linker.display()),
        "-Clink-arg=--btf".to_owned(),
        "-Ctarget-cpu=v3".to_owned(),
        "-Cdebuginfo=2".to_owned(),
    ];
    flags.extend(remapped(&[
        (Some(root.to_owned()), "/lpm"),
        (process::cargo_home(), "/cargo"),
        (Some(toolchain.library_source()), "/rust/library"),
    ]));
    let mut command = toolchain.cargo();
    command.current_dir(&programs);
    command.args([
        subcommand,
        "--release",
        "-Zbuild-std=core",
        "--target",
        BPF_TARGET,
    ]);
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    command.env_remove("RUSTFLAGS");
    command.env("RUSTC_WRAPPER", programs.join("rustc-wrapper"));
    command.env("CARGO_TARGET_DIR", target);
    Ok(command)
}

/// The compiler's flags that write other directories in place of these into what is built, so that
/// its bytes do not depend on where it was built. Messages keep the paths.
pub(crate) fn remapped(places: &[(Option<PathBuf>, &str)]) -> Vec<String> {
    let mut flags = vec!["--remap-path-scope=macro,debuginfo,object".to_owned()];
    for (from, to) in places {
        let Some(from) = from else { continue };
        // Cargo and the compiler name a file by a link's path or by the path behind the link.
        let real = from.canonicalize().ok().filter(|real| real != from);
        for from in [Some(from), real.as_ref()].into_iter().flatten() {
            flags.push(format!("--remap-path-prefix={}={to}", from.display()));
        }
    }
    flags
}

/// The object `name` as it is shipped, of the programs that were built into `target`: without the
/// sections for debuggers.
pub(crate) fn shipped_object(target: &Path, name: &str) -> Result<Vec<u8>> {
    let file = target.join(BPF_TARGET).join("release").join(name);
    let built = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    strip::without_debug_sections(&built)
        .with_context(|| format!("cannot strip {}", file.display()))
}

/// Writes an object to where the agent takes it from. If the file is equal already, it is left
/// alone, so that the agent's build script does not run in vain.
fn put(object: &[u8], to: &Path) -> Result<()> {
    if fs::read(to).is_ok_and(|present| present == object) {
        return Ok(());
    }
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    fs::write(to, object).with_context(|| format!("cannot write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::test::WORKSPACE;

    /// Packages with their features, as cargo chooses them for these arguments.
    fn packages(arguments: &[&str]) -> BTreeSet<String> {
        let mut tree = process::cargo();
        tree.args(["tree", "--offline", "--no-dedupe", "--prefix=none"]);
        tree.arg("--format={p} {f}").args(arguments);
        let listed = process::output(&mut tree).unwrap();
        listed.lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_demo_and_the_tests_compile_the_same_dependencies() {
        let demo = packages(&[&PROGRAMS[..], &["--edges=normal"]].concat());
        let tests = packages(&[&WORKSPACE[..], &["--edges=normal,dev"]].concat());
        // It is compiled in a moment. A feature of it would need it as a dependency.
        let is_small = |package: &&String| package.starts_with("getrandom ");
        let other = demo.difference(&tests);
        let other: Vec<_> = other.filter(|package| !is_small(package)).collect();
        assert!(
            demo.len() > 100 && other.is_empty(),
            "the tests compile these with other features; name them in PROGRAMS: {other:?}"
        );
    }
}
