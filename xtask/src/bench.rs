//! `cargo xtask bench`: builds, then runs the harness.

use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;

use crate::{
    build, paths, process,
    setup::{self, Part},
};

/// Measure the cost per packet, the error against the ground truth, how fast captures are
/// read, or probes.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask bench cost\n  \
    cargo xtask bench truth\n  \
    cargo xtask bench replay\n  \
    cargo xtask bench truth --method seq     connections without timestamps\n  \
    cargo xtask bench cost --peer NAME=COMMAND     beside another monitor\n  \
    cargo xtask bench cost -- --beside OBJECT --hot     beside another build's programs\n  \
    cargo xtask bench probe --irtt PATH --stamp-suite PATH     beside other tools\n  \
    cargo xtask bench cost -- --help     what the harness itself takes")]
pub(crate) struct Args {
    /// What to measure
    kind: Kind,
    /// Arguments passed on to the benchmark harness
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// Nanoseconds per packet, beside an empty and a minimal program
    Cost,
    /// Measured round-trip times against the delay line's own log
    Truth,
    /// How fast `lpm replay` reads a capture of 1 GB, and with how much memory
    Replay,
    /// What the names of 1,000 to 100,000 pods cost an agent
    Identity,
    /// What it costs the API server if agents follow the whole cluster, or their own node
    Scopes,
    /// What a packet costs a reflector, and how near the round trip is to the wire's
    Probe,
    /// What an agent takes on a node of 250 pods: time of a scrape, memory, share of a core
    Scale,
}

/// The command `cargo xtask bench`.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    process::require_root_or_sudo("the benchmark")?;
    let (kind, part) = match args.kind {
        Kind::Cost => ("cost", Part::Run),
        // Captures and the reference that reads them.
        Kind::Truth => ("truth", Part::Test),
        Kind::Replay => ("replay", Part::Run),
        Kind::Identity => ("identity", Part::Run),
        Kind::Scopes => ("scopes", Part::Cluster),
        // Captures, and tshark that reads them.
        Kind::Probe => ("probe", Part::Test),
        Kind::Scale => ("scale", Part::Run),
    };
    setup::ensure(&[Part::Run, part])?;
    build::with_benchmark()?;
    let mut harness = process::privileged(paths::release_binary("lpm-bench"));
    harness
        .arg(kind)
        .args(&args.args)
        .current_dir(paths::root());
    process::run(&mut harness)?;
    Ok(ExitCode::SUCCESS)
}
