//! `lpm-bench`: the benchmarks that `cargo xtask bench` runs.

use anyhow::Result;
use clap::Parser;
use lpm_bench::cost;

/// Benchmarks of LPM.
#[derive(Parser)]
#[command(version)]
enum Command {
    Cost(cost::Args),
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Cost(args) => cost::main(&args),
    }
}
