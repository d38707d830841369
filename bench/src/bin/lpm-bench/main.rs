//! `lpm-bench`: the benchmarks that `cargo xtask bench` runs.

mod identity;
mod replay;
mod rss;
mod scopes;
mod truth;

use anyhow::Result;
use clap::Parser;
use lpm_bench::{cost, probe, scale};

/// Benchmarks of LPM.
#[derive(Parser)]
#[command(version)]
enum Command {
    Cost(cost::Args),
    Identity(identity::Args),
    Probe(probe::Args),
    Replay(replay::Args),
    Scopes(scopes::Args),
    Scale(scale::Args),
    Truth(truth::Args),
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Cost(args) => cost::main(&args),
        Command::Identity(args) => identity::main(&args),
        Command::Probe(args) => probe::main(&args),
        Command::Replay(args) => replay::main(&args),
        Command::Scopes(args) => scopes::main(&args),
        Command::Scale(args) => scale::main(&args),
        Command::Truth(args) => truth::main(&args),
    }
}
