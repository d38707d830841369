//! The groups that run a checker and no test binary.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result};

use super::{
    output::{PythonTests, Tally},
    runner,
    skips::Skip,
};
use crate::{build, object_check, paths, process, setup};

/// Runs a command whose exit status is its only result.
fn check(command: &mut Command, name: &str) -> Result<Tally> {
    let success = runner::run(command, Duration::from_mins(15), |_| {})?;
    Ok(if success {
        Tally::one_pass()
    } else {
        Tally::one_failure(name)
    })
}

/// Runs a command whose exit status is its only result, unless it printed that it skips.
pub(crate) fn check_with_skips(
    command: &mut Command,
    name: &str,
    limit: Duration,
) -> Result<Tally> {
    let mut skip = None;
    let success = runner::run(command, limit, |line| {
        skip = skip.take().or(Skip::parse(line));
    })?;
    Ok(match skip {
        Some(skip) if success => Tally::one_skip(skip),
        _ if success => Tally::one_pass(),
        _ => Tally::one_failure(name),
    })
}

pub(super) fn format() -> Result<Tally> {
    let mut tally = Tally::default();
    for manifest in ["Cargo.toml", "lpm-ebpf/Cargo.toml", "fuzz/Cargo.toml"] {
        let mut command = process::cargo();
        command.args(["fmt", "--all", "--check", "--manifest-path", manifest]);
        tally.add(check(&mut command, manifest)?);
    }
    Ok(tally)
}

pub(super) fn dependencies() -> Result<Tally> {
    let mut tally = Tally::default();
    for manifest in ["Cargo.toml", "lpm-ebpf/Cargo.toml"] {
        let mut command = Command::new(setup::cargo_deny().context("cargo-deny is missing")?);
        process::scrub(&mut command);
        command.current_dir(paths::root());
        // Advisories change without a commit: they are no matter of a test that must be the same
        // tomorrow.
        command.args([
            "--manifest-path",
            manifest,
            "--config",
            "deny.toml",
            "check",
        ]);
        // One list for two workspaces: what only one of them has is no fault of the other.
        command.args(["--allow=unmatched-skip", "--allow=license-not-encountered"]);
        command.args(["--hide-inclusion-graph", "licenses", "bans", "sources"]);
        tally.add(check(&mut command, manifest)?);
    }
    Ok(tally)
}

pub(super) fn lints() -> Result<Tally> {
    let mut command = process::cargo();
    command.args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--features=lpm-bench/cluster",
        "--",
        "-D",
        "warnings",
    ]);
    check(&mut command, "clippy")
}

pub(super) fn bpf_lints() -> Result<Tally> {
    let toolchain = setup::toolchain::find().map_err(anyhow::Error::msg)?;
    let clippy = toolchain
        .clippy()
        .context("the eBPF toolchain has no clippy of its release; `cargo xtask setup` gets it")?;
    let mut command = build::cargo_bpf("check")?;
    // What cargo-clippy does: it needs to be of the compiler's release, and here it is not cargo
    // that chooses the compiler.
    command.env("RUSTC_WORKSPACE_WRAPPER", clippy);
    command.env("CLIPPY_ARGS", "-Dwarnings__CLIPPY_HACKERY__");
    check(&mut command, "clippy")
}

pub(super) fn object() -> Result<Tally> {
    let mut tally = Tally::default();
    for name in build::OBJECTS {
        let found = object_check::check(&paths::kernel_object(name))?;
        for what in &found {
            println!("{name}: {what}");
        }
        tally.add(if found.is_empty() {
            Tally::one_pass()
        } else {
            Tally::one_failure(name)
        });
    }
    Ok(tally)
}

pub(super) fn oracle() -> Result<Tally> {
    let mut command = Command::new("python3");
    command.args(["-B", "-m", "unittest", "discover", "-v"]);
    command.current_dir(paths::root().join("tests/oracle"));
    let mut tests = PythonTests::default();
    let success = runner::run(&mut command, Duration::from_mins(10), |line| {
        tests.line(line);
    })?;
    let mut tally = tests.finish();
    tally.end(success, "python3 -m unittest");
    Ok(tally)
}
