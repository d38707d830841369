//! The group `upgrade`: replaces another build's agent by this one's, and back, under traffic.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Result, bail};

use super::{groups, output::Tally};
use crate::{paths, process};

/// Name of the group, which `--only` takes.
pub(crate) const NAME: &str = "upgrade";

/// The commit that is upgraded from unless `LPM_UPGRADE_FROM` says otherwise: the last one before
/// the kernel's maps changed.
const BEFORE: &str = "304dc30";

/// Environment variable that may name a commit to upgrade from, or a built program `lpm`.
const FROM: &str = "LPM_UPGRADE_FROM";

/// Builds the other agent, if it is not there, and runs the test against it.
pub(crate) fn run() -> Result<Tally> {
    let from = std::env::var(FROM).unwrap_or_else(|_| BEFORE.to_owned());
    let mut program = PathBuf::from(&from);
    if !program.is_file() {
        program = build(&from)?;
    }
    groups::cargo_test_with(
        &[
            "--package=lpm-agent",
            "--features=upgrade",
            "--test=datapath",
            "restart::upgrade",
        ],
        &[(FROM, &program)],
        Duration::from_mins(10),
    )
}

/// Builds the agent of a commit in a work tree of its own, below `target`.
fn build(commit: &str) -> Result<PathBuf> {
    let tree = paths::target().join("upgrade").join(commit);
    let program = tree.join("target/release/lpm");
    if program.is_file() {
        return Ok(program);
    }
    if !tree.is_dir() {
        let mut add = Command::new("git");
        add.current_dir(paths::root());
        add.args(["worktree", "add", "--detach"]).arg(&tree);
        process::run(add.arg(commit)).map_err(|error| {
            error.context(format!(
                "{commit} cannot be checked out; a clone without its history lacks it: `git fetch \
                 --unshallow`, or name another commit or program by {FROM}"
            ))
        })?;
    }
    println!("test: {NAME}: building the agent of {commit}: ten minutes, the first time");
    let mut build = process::cargo();
    build.current_dir(&tree).env_remove("CARGO_TARGET_DIR");
    process::run(build.args(["xtask", "build"]))?;
    if !program.is_file() {
        bail!("{commit} was built, but there is no {}", program.display());
    }
    Ok(program)
}
