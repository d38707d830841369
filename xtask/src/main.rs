//! Developer commands: `cargo xtask --help`.
//!
//! One file per command. Everything that installs something says what and why before it does;
//! everything that fails says what to do about it.

mod arch;
mod bench;
mod btf;
mod build;
mod cluster;
mod demo;
mod fuzz;
mod image;
mod object_check;
mod paths;
mod process;
mod setup;
mod signals;
mod soak;
mod strip;
mod test;
#[cfg(test)]
mod words;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Sets up, builds, demonstrates, tests and measures LPM.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    after_help = "Examples:\n  cargo xtask run      install what is missing, build, show the demo live\n  cargo xtask test     everything this machine can test"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Find or install what the other commands need
    Setup(setup::Args),
    /// Build the kernel programs and the agent
    Build(build::Args),
    /// Build, lay out the demo overlay, drive traffic and show its latency live
    Run(demo::Args),
    /// Test everything that this machine can test
    Test(test::Args),
    /// Look for known flaws of the dependencies
    Advisories(test::advisories::Args),
    /// Look for input that breaks what strangers can reach
    Fuzz(fuzz::Args),
    /// Run agents under mixed load for an hour: whether they take more and more, or measure wrong
    Soak(soak::Args),
    /// Make a container image of the agent, without a container engine
    Image(image::Args),
    /// A real Kubernetes of two nodes on this machine
    Cluster(cluster::Args),
    /// Measure the cost per packet or the error against the ground truth
    Bench(bench::Args),
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Setup(args) => setup::main(&args),
        Command::Build(args) => build::main(&args).map(|()| ExitCode::SUCCESS),
        Command::Run(args) => demo::main(&args).map(|()| ExitCode::SUCCESS),
        Command::Test(args) => test::main(&args),
        Command::Advisories(args) => test::advisories::main(&args),
        Command::Fuzz(args) => fuzz::main(&args),
        Command::Soak(args) => soak::main(&args),
        Command::Image(args) => image::main(&args).map(|()| ExitCode::SUCCESS),
        Command::Cluster(args) => cluster::main(&args),
        Command::Bench(args) => bench::main(&args),
    }
}
