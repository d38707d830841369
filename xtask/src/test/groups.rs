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
    /// The tools that `cargo xtask setup` gets.
    Tools,
    /// The built kernel programs and release binaries, and leave to become root.
    Programs,
}

/// A group of tests.
pub(crate) struct Group {
    /// The group's name, which `--only` takes.
    pub(crate) name: &'static str,
    /// The group's subject, for people.
    pub(crate) what: &'static str,
    /// What must be there before the group runs.
    pub(crate) needs: Needs,
    /// How the group runs.
    pub(crate) run: Run,
}

/// How a group runs.
pub(crate) enum Run {
    /// Calls a function.
    Function(fn() -> Result<Tally>),
    /// Runs test binaries of the workspace, with a limit for all of them.
    Tests(&'static [&'static str], Duration),
}

impl Group {
    /// Runs the group.
    pub(crate) fn run(&self) -> Result<Tally> {
        match self.run {
            Run::Function(function) => function(),
            Run::Tests(names, limit) => cargo_test(&arguments(names), limit),
        }
    }

    /// The names of the test binaries that the group runs.
    pub(crate) fn tests(&self) -> &'static [&'static str] {
        match self.run {
            Run::Function(_) => &[],
            Run::Tests(names, _) => names,
        }
    }
}

/// The arguments by which cargo selects test binaries of the workspace.
fn arguments<'a>(tests: &[&'a str]) -> Vec<&'a str> {
    tests.iter().flat_map(|name| ["--test", name]).collect()
}

/// Compiles test binaries together, so that all CPUs have something to do.
///
/// Binaries that do not compile are no error here: their groups fail with the reason.
pub(crate) fn compile(tests: &[&str]) -> Result<()> {
    let mut command = process::cargo();
    command.args(["test", "--workspace", "--no-run"]);
    command.args(arguments(tests));
    runner::run(&mut command, Duration::from_mins(30), |_| {}).map(drop)
}

/// The group that takes minutes to make an image and to start clusters.
pub(crate) const CLUSTER: &str = "cluster";

/// The group that occupies the machine with hostile clients.
pub(crate) const HOSTILE: &str = "hostile";

/// All groups.
pub(crate) const GROUPS: [Group; 20] = [
    Group {
        name: "format",
        what: "rustfmt has nothing to change",
        needs: Needs::Rust,
        run: Run::Function(format),
    },
    Group {
        name: "dependencies",
        what: "licences, duplicates and sources (cargo-deny, deny.toml)",
        needs: Needs::Tools,
        run: Run::Function(dependencies),
    },
    Group {
        name: "lints",
        what: "clippy has nothing to say about the workspace",
        needs: Needs::Rust,
        run: Run::Function(lints),
    },
    Group {
        name: "bpf-lints",
        what: "clippy has nothing to say about the kernel programs",
        needs: Needs::Tools,
        run: Run::Function(bpf_lints),
    },
    Group {
        name: "object",
        what: "the kernel object has no instruction that Linux 5.10 lacks",
        needs: Needs::Programs,
        run: Run::Function(object),
    },
    Group {
        name: "unit",
        what: "tests beside the source",
        needs: Needs::Rust,
        run: Run::Function(|| cargo_test(&["--lib", "--bins"], Duration::from_mins(20))),
    },
    Group {
        name: "doc",
        what: "examples in the documentation",
        needs: Needs::Rust,
        run: Run::Function(|| cargo_test(&["--doc"], Duration::from_mins(10))),
    },
    Group {
        name: "oracle",
        what: "the independent reference in Python, against vectors made by hand",
        needs: Needs::Tools,
        run: Run::Function(oracle),
    },
    Group {
        name: "testbed",
        what: "what other tests stand on: namespaces, the wire, traffic, an API server",
        needs: Needs::Programs,
        run: Run::Tests(&["testbed", "kubernetes"], Duration::from_mins(15)),
    },
    Group {
        name: "replay",
        what: "captures through the matcher, and beside the kernel programs",
        needs: Needs::Programs,
        run: Run::Tests(&["replay"], Duration::from_mins(15)),
    },
    Group {
        name: "cli",
        what: "the commands: bad input, what an agent needs to start, in its container",
        needs: Needs::Programs,
        run: Run::Tests(&["cli"], Duration::from_mins(15)),
    },
    Group {
        name: "export",
        what: "what an agent serves, and what a real Prometheus makes of it",
        needs: Needs::Programs,
        run: Run::Tests(&["export"], Duration::from_mins(20)),
    },
    Group {
        name: "names",
        what: "whose an address is, by a real API server, other agents and interfaces",
        needs: Needs::Programs,
        run: Run::Tests(&["names"], Duration::from_mins(20)),
    },
    Group {
        name: "datapath",
        what: "the kernel programs, on interfaces and under traffic",
        needs: Needs::Programs,
        run: Run::Tests(&["datapath"], Duration::from_mins(40)),
    },
    Group {
        name: "deploy",
        what: "chart, overlays, rules, dashboards",
        needs: Needs::Tools,
        run: Run::Tests(&["deploy"], Duration::from_mins(15)),
    },
    Group {
        name: "demo",
        what: "cargo xtask run shows three namespaces and leaves nothing behind",
        needs: Needs::Programs,
        run: Run::Function(demo::run),
    },
    Group {
        name: CLUSTER,
        what: "the chart and the agent in a real Kubernetes, scraped by Prometheus; only on \
               request",
        needs: Needs::Tools,
        run: Run::Function(cluster),
    },
    Group {
        name: upgrade::NAME,
        what: "an agent of another build is replaced by this build's under traffic; only on \
               request",
        needs: Needs::Programs,
        run: Run::Function(upgrade::run),
    },
    Group {
        name: HOSTILE,
        what: "a thousand hostile HTTP clients of each kind for a minute, under the chart's memory \
               limit; only on request",
        needs: Needs::Programs,
        run: Run::Function(hostile),
    },
    Group {
        name: kernel::NAME,
        what: "the programs on the oldest supported kernel, emulated; only on request",
        needs: Needs::Programs,
        run: Run::Function(kernel::group),
    },
];

/// Runs a command whose exit status is its only result.
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

/// Makes the agent's image, then runs the tests that load it. They are not in another group: the
/// other tests must not wait for a cluster, nor share the machine with one.
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

/// Runs the test of hostile clients in full, on the agent that is built for release.
fn hostile() -> Result<Tally> {
    let program = paths::release_binary("lpm");
    cargo_test_with(
        &["--package=lpm-agent", "--test=export", "hostile::"],
        &[("LPM_HOSTILE", &program)],
        Duration::from_mins(15),
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

/// The target triple that tests run on.
const HOST: &str = if cfg!(target_arch = "aarch64") {
    "aarch64-unknown-linux-gnu"
} else {
    "x86_64-unknown-linux-gnu"
};

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::*;

    /// The test binaries that cargo finds in a crate.
    fn binaries(of: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(paths::root().join(of).join("tests")) else {
            return Vec::new();
        };
        let paths = entries.map(|entry| entry.unwrap().path());
        let binaries = paths.filter(|path| {
            path.extension().is_some_and(|end| end == "rs") || path.join("main.rs").is_file()
        });
        let name = |path: &Path| path.file_stem().unwrap().to_string_lossy().into_owned();
        binaries.map(|path| name(&path)).collect()
    }

    #[test]
    fn every_test_binary_belongs_to_a_group() {
        let crates = ["bench", "lpm-agent", "lpm-common", "testbed", "xtask"];
        let mut found: Vec<_> = crates.into_iter().flat_map(binaries).collect();
        found.sort_unstable();
        let groups = GROUPS.iter().flat_map(Group::tests).copied();
        let known: BTreeSet<_> = groups.chain([CLUSTER]).collect();
        // Two of one name would both run where either is meant.
        assert_eq!(found, known.into_iter().collect::<Vec<_>>());
    }
}
