//! `cargo xtask soak`: agents under mixed load for an hour, and the group `soak` of the tests, which
//! does the same more densely for two minutes.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;

use crate::{
    build, paths, process,
    setup::{self, Part},
    test::{Tally, check_with_skips},
};

/// Where the figures of the long version go, from the root of the repository on.
const RESULTS: &str = "bench/results/soak.md";

/// Minutes that the group takes. What an agent keeps of each of 240 interfaces shows in them.
const DENSE_MINUTES: &str = "2";

/// What the group may take in all, the API server's starts on a busy machine included.
const LIMIT: Duration = Duration::from_mins(10);

/// Run agents under mixed load: what they take must not grow, and no sample may be wrong.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask soak                 an hour; the figures go to bench/results/soak.md\n  \
    cargo xtask soak --minutes 10")]
pub(crate) struct Args {
    /// How long it lasts
    #[arg(long, value_name = "N", default_value_t = 60)]
    minutes: u64,
}

/// The command `cargo xtask soak`.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    process::require_root_or_sudo("the soak")?;
    setup::ensure(&[Part::Run, Part::Cluster])?;
    build::with_testbed()?;
    let mut soak = process::privileged(paths::release_binary("lpm-testbed"));
    soak.args(["soak", "--minutes", &args.minutes.to_string()])
        .args(["--output", RESULTS])
        .current_dir(paths::root());
    process::run(&mut soak)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the dense version with the programs that the tests built.
pub(crate) fn group() -> Result<Tally> {
    let mut soak = process::privileged(paths::dev_binary("lpm-testbed"));
    soak.args(["soak", "--dense", "--minutes", DENSE_MINUTES])
        .current_dir(paths::root());
    check_with_skips(
        &mut soak,
        "agents take more and more, or measure wrong",
        LIMIT,
    )
}
