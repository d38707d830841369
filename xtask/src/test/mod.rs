//! `cargo xtask test`: everything that this machine can test.
//!
//! A test that cannot run prints `LPM-SKIP <group>: <reason>` and returns: it counts as skipped,
//! never as passed. `.ci/expected-skips` lists what a kernel or hardware may lack; any other skip
//! fails the run in CI and is a loud warning elsewhere.

pub(crate) mod advisories;
mod checks;
mod demo;
mod groups;
mod kernel;
mod lanes;
mod output;
mod release;
mod reproducible;
mod runner;
mod skips;
mod upgrade;

use std::{
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

#[cfg(test)]
pub(crate) use self::groups::WORKSPACE;
pub(crate) use self::{checks::check_with_skips, kernel::KEYRING, output::Tally};
use self::{
    groups::{GROUPS, Group, Needs},
    skips::Expected,
};
use crate::{
    arch::Arch,
    build, paths, process,
    setup::{self, Part},
    signals,
};

/// Test everything that this machine can test.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask test                         everything\n  \
    cargo xtask test --only unit --only lints\n  \
    cargo xtask test --only datapath         one of the agent's test binaries\n  \
    cargo xtask test --list                  the groups and what each tests\n  \
    cargo xtask test --kernel 5.10 --kernel newest\n  \
    cargo xtask test --kernel 6.12 --guest-test oracle\n  \
    cargo xtask test --kernel 6.12 --arch arm64\n\n\
    The last line is the count: N passed, N failed, N skipped.")]
pub(crate) struct Args {
    /// Only these groups
    #[arg(long, value_name = "GROUP")]
    only: Vec<String>,
    /// Instead of the groups: the tests that depend on the kernel, in an emulated machine with
    /// Debian's newest cloud kernel of this series (5.10, 6.1, 6.12, ..., `newest`)
    #[arg(long, value_name = "SERIES", conflicts_with_all = ["only", "list"])]
    kernel: Vec<String>,
    /// With --kernel: the architecture of the emulated machine [default: this one's]
    #[arg(long, value_enum, value_name = "ARCH", requires = "kernel")]
    arch: Option<Arch>,
    /// With --kernel: only these topics of its tests (budget, attach, oracle, ...)
    #[arg(long, value_name = "TEST", requires = "kernel")]
    guest_test: Vec<String>,
    /// List the groups and run none
    #[arg(long)]
    list: bool,
    /// Install nothing; a group that lacks something then fails
    #[arg(long)]
    no_setup: bool,
}

/// The command `cargo xtask test`.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    if args.list {
        for group in &GROUPS {
            println!("{:<13} {}", group.name, group.what);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(unknown) = args
        .only
        .iter()
        .find(|name| !GROUPS.iter().any(|g| g.name == **name))
    {
        let names: Vec<_> = GROUPS.iter().map(|group| group.name).collect();
        bail!(
            "there is no group {unknown:?}; the groups are {}",
            names.join(", ")
        );
    }
    let expected = Expected::read(&paths::root().join(".ci/expected-skips"))?;
    if !args.kernel.is_empty() {
        signals::catch()?;
        let tally = kernel::chosen(&args.kernel, args.arch, &args.guest_test, args.no_setup)?;
        return Ok(conclude(&tally, &expected));
    }
    let chosen: Vec<&Group> = GROUPS
        .iter()
        .filter(|group| {
            if args.only.is_empty() {
                opt_in(group.name).is_none()
            } else {
                args.only.iter().any(|name| name == group.name)
            }
        })
        .collect();
    signals::catch()?;
    let needs = chosen.iter().map(|group| group.needs).max();
    prepare(args.no_setup, needs.unwrap_or(Needs::Rust))?;
    let total = run_groups(&chosen)?;
    if args.only.is_empty() {
        println!();
        for line in not_run() {
            println!("{line}");
        }
    }
    Ok(conclude(&total, &expected))
}

/// Runs the groups in their order. Neighbours that may run beside others do so. What they all need
/// is compiled before the first one that runs test binaries.
fn run_groups(chosen: &[&Group]) -> Result<Tally> {
    let mut total = Tally::default();
    let mut compiled = false;
    let mut left = chosen.len();
    for neighbours in chosen.chunk_by(|a, b| a.beside_others && b.beside_others) {
        if !compiled && neighbours.iter().any(|group| !group.targets.is_empty()) {
            println!("\ntest: compiling what the groups of tests need");
            groups::compile(chosen)?;
            compiled = true;
        }
        total.add(match neighbours {
            [group] => run_group(group),
            several => lanes::run(several),
        });
        left -= neighbours.len();
        if left > 0 && signals::stopped() {
            bail!("stopped by a signal before the tests were through");
        }
    }
    Ok(total)
}

/// Groups that run only when asked for, and why: they take their time.
const OPT_IN: [(&str, &str); 6] = [
    (
        groups::CLUSTER,
        "it starts whole clusters, for a quarter of an hour",
    ),
    (
        upgrade::NAME,
        "it builds another commit, for ten minutes the first time",
    ),
    (
        groups::HOSTILE,
        "it occupies the machine with thousands of clients, for two minutes",
    ),
    (
        release::NAME,
        "it builds the image as it is released twice, for half an hour",
    ),
    (
        groups::INTEROP,
        "it builds stamp-suite, for some minutes the first time",
    ),
    (kernel::NAME, "it emulates machines, for some minutes each"),
];

/// Says why a group runs only when it is asked for; None: it always runs.
fn opt_in(group: &str) -> Option<&'static str> {
    let found = OPT_IN.iter().find(|(name, _)| *name == group);
    found.map(|(_, why)| *why)
}

/// Lists what a plain run does not test, and how to run it: one line each.
fn not_run() -> Vec<String> {
    let line = |(name, why): &(&str, &str)| {
        format!("not run: {name}: {why}; `cargo xtask test --only {name}`")
    };
    OPT_IN.iter().map(line).collect()
}

/// Installs what tests need, builds what they load, and asks for sudo's password now rather than
/// in the middle.
fn prepare(no_setup: bool, needs: Needs) -> Result<()> {
    if !no_setup && needs >= Needs::Tools {
        setup::ensure(&[Part::Build, Part::Test, Part::Cluster, Part::Prometheus])?;
    }
    if needs >= Needs::Programs {
        if !process::is_root() {
            process::require_root_or_sudo("testing with the kernel")?;
            process::run(Command::new("sudo").arg("-v"))?;
        }
        build::for_tests()?;
    }
    Ok(())
}

fn run_group(group: &Group) -> Tally {
    println!("\ntest: {}: {}", group.name, group.what);
    if let Some(why) = opt_in(group.name) {
        println!("test: {}: {why}", group.name);
    }
    let start = Instant::now();
    let mut tally = group.run().unwrap_or_else(|error| {
        println!("test: {}: {error:#}", group.name);
        Tally::one_failure(group.name)
    });
    tally.name_failures(group.name);
    println!(
        "test: {}: {} in {}",
        group.name,
        tally.counts(),
        seconds(start.elapsed())
    );
    tally
}

fn seconds(duration: Duration) -> String {
    format!(
        "{}.{} s",
        duration.as_secs(),
        duration.subsec_millis() / 100
    )
}

/// Prints what was skipped and failed, then the count; fails where the run must.
fn conclude(total: &Tally, expected: &Expected) -> ExitCode {
    let in_ci = std::env::var("CI").is_ok_and(|value| value == "true" || value == "1");
    let mut unexpected = 0;
    println!();
    for (skip, count) in total.skips() {
        let note = if expected.allows(skip) {
            "expected"
        } else {
            unexpected += 1;
            "UNEXPECTED: not in .ci/expected-skips"
        };
        println!(
            "skipped: {}: {} ({count} x, {note})",
            skip.group, skip.reason
        );
    }
    for line in total.words() {
        println!("{line}");
    }
    for failure in total.failures() {
        println!("failed: {failure}");
    }
    let fails = total.failed() > 0 || (in_ci && unexpected > 0);
    if unexpected > 0 {
        let weight = if in_ci {
            "this fails the run"
        } else {
            "CI would fail"
        };
        println!("WARNING: {unexpected} unexpected skips: {weight}");
    }
    println!("{}", total.counts());
    if fails {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_plain_run_leaves_out_is_told() {
        let said = not_run().join("\n");
        for group in GROUPS.iter().filter(|group| opt_in(group.name).is_some()) {
            let command = format!("cargo xtask test --only {}`", group.name);
            assert!(said.contains(&command), "{said}");
        }
        let left: Vec<_> = GROUPS
            .iter()
            .filter(|group| opt_in(group.name).is_some())
            .collect();
        assert_eq!(left.len(), OPT_IN.len(), "each is a group");
    }
}
