//! The groups of tests, in the order in which they run: what fails fast comes first.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result};

use super::{
    demo, kernel,
    output::{CargoTests, PythonTests, Tally},
    runner, upgrade,
};
use crate::{build, image, object_check, paths, process, setup};

/// What must be there before a group runs; each includes the one before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Needs {
    /// The Rust toolchain that runs this program.
    Rust,
    /// What `cargo xtask setup` gets.
    Tools,
    /// The kernel programs and the release binaries, built, and leave to be root.
    Programs,
}

/// One group.
pub(crate) struct Group {
    /// What `--only` takes.
    pub(crate) name: &'static str,
    /// What it tests.
    pub(crate) what: &'static str,
    /// What must be there before it runs.
    pub(crate) needs: Needs,
    /// Runs it.
    pub(crate) run: fn() -> Result<Tally>,
}

/// The group that takes minutes to make an image and to start clusters.
pub(crate) const CLUSTER: &str = "cluster";

/// All groups.
pub(crate) const GROUPS: [Group; 14] = [
    Group {
        name: "format",
        what: "rustfmt has nothing to change",
        needs: Needs::Rust,
        run: format,
    },
    Group {
        name: "dependencies",
        what: "licences, duplicates and sources (cargo-deny, deny.toml)",
        needs: Needs::Tools,
        run: dependencies,
    },
    Group {
        name: "lints",
        what: "clippy has nothing to say about the workspace",
        needs: Needs::Rust,
        run: lints,
    },
    Group {
        name: "bpf-lints",
        what: "clippy has nothing to say about the kernel programs",
        needs: Needs::Tools,
        run: bpf_lints,
    },
    Group {
        name: "object",
        what: "the kernel object has no instruction that Linux 5.10 lacks",
        needs: Needs::Programs,
        run: object,
    },
    Group {
        name: "unit",
        what: "tests beside the source",
        needs: Needs::Rust,
        run: || cargo_test(&["--lib", "--bins"], Duration::from_mins(20)),
    },
    Group {
        name: "doc",
        what: "examples in the documentation",
        needs: Needs::Rust,
        run: || cargo_test(&["--doc"], Duration::from_mins(10)),
    },
    Group {
        name: "oracle",
        what: "the independent reference in Python, against vectors made by hand",
        needs: Needs::Tools,
        run: oracle,
    },
    Group {
        name: "integration",
        what: "kernel programs, namespaces and the binary, as root",
        needs: Needs::Programs,
        run: || cargo_test(&["--test", "*"], Duration::from_mins(40)),
    },
    Group {
        name: "demo",
        what: "cargo xtask run shows three namespaces and leaves nothing behind",
        needs: Needs::Programs,
        run: demo::run,
    },
    Group {
        name: DEPLOY,
        what: "chart, overlays, rules, dashboards: a part of integration, run by itself only on \
               request",
        needs: Needs::Tools,
        run: deploy,
    },
    Group {
        name: CLUSTER,
        what: "the chart and the agent in a real Kubernetes, scraped by Prometheus; only on \
               request",
        needs: Needs::Tools,
        run: cluster,
    },
    Group {
        name: upgrade::NAME,
        what: "an agent of another build is replaced by this build's under traffic; only on \
               request",
        needs: Needs::Programs,
        run: upgrade::run,
    },
    Group {
        name: kernel::NAME,
        what: "the programs on the oldest supported kernel, emulated; only on request",
        needs: Needs::Programs,
        run: kernel::group,
    },
];

/// The group that is a part of another one.
pub(crate) const DEPLOY: &str = "deploy";

/// A command whose exit status is all there is to know.
fn check(command: &mut Command, name: &str) -> Result<Tally> {
    let success = runner::run(command, Duration::from_mins(15), |_| {})?;
    Ok(if success {
        Tally::one_pass()
    } else {
        Tally::one_failure(name)
    })
}

fn format() -> Result<Tally> {
    let mut tally = Tally::default();
    for manifest in ["Cargo.toml", "lpm-ebpf/Cargo.toml"] {
        let mut command = process::cargo();
        command.args(["fmt", "--all", "--check", "--manifest-path", manifest]);
        tally.add(check(&mut command, manifest)?);
    }
    Ok(tally)
}

fn dependencies() -> Result<Tally> {
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

fn lints() -> Result<Tally> {
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

fn bpf_lints() -> Result<Tally> {
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

fn object() -> Result<Tally> {
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

fn oracle() -> Result<Tally> {
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

fn deploy() -> Result<Tally> {
    let target = ["--package", "lpm-bench", "--test", DEPLOY];
    cargo_test_of(&target, Duration::from_mins(20))
}

/// The agent's image, then the tests that load it. Not among the other integration tests: those
/// must not wait for a cluster, nor share the machine with one.
fn cluster() -> Result<Tally> {
    // Not among what other groups get: it takes minutes to build.
    setup::ensure(&[setup::Part::Prometheus])?;
    if !process::is_root() {
        process::require_root_or_sudo("a cluster")?;
    }
    image::for_tests()?;
    cargo_test_of(
        &[
            "--package=lpm-bench",
            "--features=cluster",
            "--test=cluster",
        ],
        Duration::from_mins(40),
    )
}

fn cargo_test(targets: &[&str], limit: Duration) -> Result<Tally> {
    cargo_test_of(&[&["--workspace"], targets].concat(), limit)
}

fn cargo_test_of(targets: &[&str], limit: Duration) -> Result<Tally> {
    cargo_test_with(targets, &[], limit)
}

/// Runs tests with these environment variables.
pub(super) fn cargo_test_with(
    targets: &[&str],
    environment: &[(&str, &Path)],
    limit: Duration,
) -> Result<Tally> {
    let mut command = process::cargo();
    command.envs(environment.iter().copied());
    command.args(["test", "--no-fail-fast"]).args(targets);
    // Shown per test: skips are lines of their own and tell whose they are.
    command.args(["--", "--show-output"]);
    command.env("PATH", std::env::join_paths(process::search_path())?);
    if !process::is_root() {
        let host = format!(
            "CARGO_TARGET_{}_RUNNER",
            HOST.to_uppercase().replace('-', "_")
        );
        command.env(host, "sudo --preserve-env");
    }
    let mut tests = CargoTests::default();
    let success = runner::run(&mut command, limit, |line| tests.line(line))?;
    let mut tally = tests.finish();
    tally.end(success, "cargo test");
    Ok(tally)
}

/// The triple that tests run on.
const HOST: &str = if cfg!(target_arch = "aarch64") {
    "aarch64-unknown-linux-gnu"
} else {
    "x86_64-unknown-linux-gnu"
};
