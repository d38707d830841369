//! The groups of tests, in the order in which they run: what fails fast comes first.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};

use super::{
    advisories, checks, demo, kernel,
    output::{CargoTests, Tally},
    release, reproducible, runner, upgrade,
};
use crate::{build, image, paths, process, setup, soak};

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
    /// Whether the group may run beside other such groups: it measures no times, and counts nothing
    /// of the whole machine.
    pub(crate) beside_others: bool,
    /// Cargo's arguments for the test binaries of the workspace that the group runs.
    pub(crate) targets: &'static [&'static str],
    run: Run,
}

/// How a group runs.
enum Run {
    /// Calls a function.
    Function(fn() -> Result<Tally>),
    /// Runs the group's targets, with a limit for all of them.
    Targets(Duration),
}

impl Group {
    /// Makes a group that calls a function.
    pub(super) const fn new(
        name: &'static str,
        what: &'static str,
        needs: Needs,
        run: fn() -> Result<Tally>,
    ) -> Self {
        Self {
            name,
            what,
            needs,
            beside_others: false,
            targets: &[],
            run: Run::Function(run),
        }
    }

    /// Makes a group that runs test binaries, with a limit for all of them.
    const fn tests(
        name: &'static str,
        what: &'static str,
        targets: &'static [&'static str],
        limit: Duration,
    ) -> Self {
        Self {
            name,
            what,
            needs: Needs::Programs,
            beside_others: false,
            targets,
            run: Run::Targets(limit),
        }
    }

    /// The group, which may run beside others.
    const fn beside_others(self) -> Self {
        Self {
            beside_others: true,
            ..self
        }
    }

    /// Runs the group.
    pub(crate) fn run(&self) -> Result<Tally> {
        match self.run {
            Run::Function(function) => function(),
            Run::Targets(limit) => cargo_test(self.targets, limit),
        }
    }
}

/// Compiles the test binaries of groups together, so that all CPUs have something to do.
///
/// Binaries that do not compile are no error here: their groups fail with the reason.
pub(crate) fn compile(groups: &[&Group]) -> Result<()> {
    let mut command = process::cargo();
    command.args(["test", "--no-run"]).args(WORKSPACE);
    command.args(groups.iter().flat_map(|group| group.targets));
    runner::run(&mut command, Duration::from_mins(30), |_| {}).map(drop)
}

/// Cargo's arguments for the packages that are tested together. They have the features that
/// [`build::PROGRAMS`] asks for. This program is tested alone, as it is also built alone: its
/// features of what it shares with the others differ, and would compile that again.
pub(crate) const WORKSPACE: [&str; 2] = ["--workspace", "--exclude=xtask"];

/// The group that takes minutes to make an image and to start clusters.
pub(crate) const CLUSTER: &str = "cluster";

/// The group that occupies the machine with hostile clients and pods.
pub(crate) const HOSTILE: &str = "hostile";

/// The group that takes minutes to build another program that speaks STAMP.
pub(crate) const INTEROP: &str = "interop";

/// All groups. Those that may run beside others are neighbours, the longest first.
pub(crate) const GROUPS: [Group; 26] = [
    Group::new(
        "format",
        "rustfmt has nothing to change",
        Needs::Rust,
        checks::format,
    ),
    Group::new(
        "dependencies",
        "licences, duplicates and sources (cargo-deny, deny.toml)",
        Needs::Tools,
        checks::dependencies,
    ),
    Group::new(
        "advisories",
        "known flaws of dependencies are reported; `cargo xtask advisories` fails for one",
        Needs::Tools,
        advisories::group,
    ),
    Group::new(
        "lints",
        "clippy has nothing to say about the workspace",
        Needs::Rust,
        checks::lints,
    ),
    Group::new(
        "bpf-lints",
        "clippy has nothing to say about the kernel programs",
        Needs::Tools,
        checks::bpf_lints,
    ),
    Group::new(
        "object",
        "the kernel object has no instruction that Linux 5.10 lacks",
        Needs::Programs,
        checks::object,
    ),
    Group::new(
        reproducible::OBJECTS,
        "the kernel objects have the same bytes when they are built again elsewhere",
        Needs::Programs,
        reproducible::objects,
    ),
    Group {
        targets: &UNIT,
        ..Group::new("unit", "tests beside the source", Needs::Rust, unit)
    },
    Group::new("doc", "examples in the documentation", Needs::Rust, || {
        cargo_test(&["--doc"], Duration::from_mins(10))
    }),
    Group {
        needs: Needs::Rust,
        ..Group::tests(
            "fuzz",
            "the corpus through what the fuzzers call; `cargo xtask fuzz` looks for more",
            &["--test=corpus"],
            Duration::from_mins(10),
        )
    },
    Group::tests(
        "names",
        "whose an address is, by a real API server, other agents and interfaces",
        &["--test=names"],
        Duration::from_mins(20),
    )
    .beside_others(),
    Group::tests(
        "export",
        "what an agent serves, and what a real Prometheus makes of it",
        &["--test=export"],
        Duration::from_mins(20),
    )
    .beside_others(),
    Group::new(
        "soak",
        "agents under mixed load take no more and more, and measure nothing wrong; `cargo xtask soak` \
         does it for an hour",
        Needs::Programs,
        soak::group,
    )
    .beside_others(),
    Group::tests(
        "cli",
        "the commands: bad input, what an agent needs to start, in its container",
        &["--test=cli"],
        Duration::from_mins(15),
    )
    .beside_others(),
    Group {
        needs: Needs::Tools,
        ..Group::tests(
            "deploy",
            "chart, overlays, rules, dashboards",
            &["--test=deploy"],
            Duration::from_mins(15),
        )
    }
    .beside_others(),
    Group::new(
        "oracle",
        "the independent reference in Python, against vectors made by hand",
        Needs::Tools,
        checks::oracle,
    )
    .beside_others(),
    Group::tests(
        "testbed",
        "what other tests stand on: namespaces, the wire, traffic, an API server",
        &["--test=testbed", "--test=kubernetes"],
        Duration::from_mins(15),
    ),
    Group::tests(
        "replay",
        "captures through the matcher, and beside the kernel programs",
        &["--test=replay"],
        Duration::from_mins(15),
    ),
    Group::tests(
        "datapath",
        "the kernel programs, on interfaces and under traffic",
        &["--test=datapath"],
        Duration::from_mins(40),
    ),
    Group::new(
        "demo",
        "cargo xtask run shows three namespaces and leaves nothing behind",
        Needs::Programs,
        demo::run,
    ),
    Group::new(
        CLUSTER,
        "the chart and the agent in a real Kubernetes, scraped by Prometheus; only on request",
        Needs::Tools,
        cluster,
    ),
    Group::new(
        upgrade::NAME,
        "an agent of another build is replaced by this build's under traffic; only on request",
        Needs::Programs,
        upgrade::run,
    ),
    Group::new(
        HOSTILE,
        "a thousand hostile HTTP clients of each kind for a minute, and ten thousand pods, under the \
         chart's memory limit; only on request",
        Needs::Programs,
        hostile,
    ),
    Group::new(
        release::NAME,
        "the image as it is released: the same bytes when it is built again elsewhere; its lists are \
         valid and agree with the binary; only on request",
        Needs::Rust,
        release::run,
    ),
    Group::new(
        INTEROP,
        "probes and reflector beside stamp-suite, in both roles; only on request",
        Needs::Tools,
        interop,
    ),
    Group::new(
        kernel::NAME,
        "the programs on the oldest supported kernel, emulated; only on request",
        Needs::Programs,
        kernel::group,
    ),
];

/// Makes the agent's image, then runs the tests that load it. They are not in another group: the
/// other tests must not wait for a cluster, nor share the machine with one.
fn cluster() -> Result<Tally> {
    // Not among what other groups get: it takes minutes to build.
    setup::ensure(&[setup::Part::Prometheus])?;
    if !process::is_root() {
        process::require_root_or_sudo("a cluster")?;
    }
    image::for_tests()?;
    cargo_test(
        &["--features=lpm-bench/cluster", "--test=cluster"],
        Duration::from_mins(40),
    )
}

/// Cargo's arguments for the tests beside the source.
const UNIT: [&str; 2] = ["--lib", "--bins"];

fn unit() -> Result<Tally> {
    let limit = Duration::from_mins(20);
    let mut tally = cargo_test(&UNIT, limit)?;
    tally.add(cargo_test_of(&["--package=xtask"], limit)?);
    Ok(tally)
}

/// Runs the tests of hostile clients and of hostile pods in full, on the agent that is built for
/// release.
fn hostile() -> Result<Tally> {
    build::release_agent()?;
    let program = paths::release_binary("lpm");
    let mut tally = Tally::default();
    for (binary, topic) in [
        ("--test=export", "hostile::"),
        ("--test=names", "kubernetes_names::memory"),
    ] {
        tally.add(cargo_test_with(
            &["--package=lpm-agent", binary, topic],
            &[("LPM_HOSTILE", &program)],
            Duration::from_mins(15),
        )?);
    }
    Ok(tally)
}

/// Runs the tests beside stamp-suite, which cargo builds first.
fn interop() -> Result<Tally> {
    setup::ensure(&[setup::Part::Interop])?;
    let program = setup::stamp_suite().context("stamp-suite was just installed")?;
    cargo_test_with(
        &[
            "--package=lpm-agent",
            "--features=stamp-suite",
            "--test=cli",
            "interop::",
        ],
        &[("LPM_STAMP_SUITE", &program)],
        Duration::from_mins(15),
    )
}

fn cargo_test(targets: &[&str], limit: Duration) -> Result<Tally> {
    cargo_test_of(&[&WORKSPACE, targets].concat(), limit)
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
    process::test_as_root(&mut command);
    let mut tests = CargoTests::default();
    let success = runner::run(&mut command, limit, |line| tests.line(line))?;
    let mut tally = tests.finish();
    tally.end(success, "cargo test");
    Ok(tally)
}

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
    fn groups_that_may_run_beside_others_are_neighbours() {
        let neighbours = GROUPS.chunk_by(|a, b| a.beside_others && b.beside_others);
        let together: Vec<_> = neighbours
            .filter(|groups| groups[0].beside_others)
            .collect();
        assert_eq!(together.len(), 1);
        assert!(together[0].len() > 1);
    }

    #[test]
    fn every_test_binary_belongs_to_a_group() {
        let crates = [
            "bench",
            "fuzz/targets",
            "lpm-agent",
            "lpm-common",
            "testbed",
            "xtask",
        ];
        let mut found: Vec<_> = crates.into_iter().flat_map(binaries).collect();
        found.sort_unstable();
        let targets = GROUPS.iter().flat_map(|group| group.targets);
        let groups = targets.filter_map(|target| target.strip_prefix("--test="));
        let known: BTreeSet<_> = groups.chain([CLUSTER]).collect();
        // Two of one name would both run where either is meant.
        assert_eq!(found, known.into_iter().collect::<Vec<_>>());
    }
}
