//! `lpm-bench probe`: what a reflector's packet costs, and how near the round trip is to the wire's,
//! beside other tools on the same packets' way.

mod busy;
mod capture;
mod network;
mod peers;
mod reflector;
mod report;
mod trips;

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

/// What a reflector's packet costs, and how near the round trip is to the wire's.
///
/// Needs root, ping, tcpdump and tshark. Other tools run beside `lpm` if their paths are given.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  \
    lpm-bench probe --irtt /usr/bin/irtt --stamp-suite ~/.cargo/bin/stamp-suite")]
pub struct Args {
    /// The agent's binary; by default the one beside this program
    #[arg(long)]
    lpm: Option<PathBuf>,
    /// irtt 0.9 (client and server)
    #[arg(long)]
    irtt: Option<PathBuf>,
    /// stamp-suite 1.0 (sender and reflector); may be given several times
    #[arg(long)]
    stamp_suite: Vec<PathBuf>,
    /// Rounds; in each every tool has its turn
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Packets of each turn
    #[arg(long, default_value_t = 50)]
    packets: usize,
    /// Seconds of load on each reflector, divided among the rounds
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Measure only this
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Where to write the tables as Markdown
    #[arg(long, default_value = "bench/results/probe.md")]
    output: PathBuf,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// What a packet costs a reflector.
    Reflector,
    /// The round trip.
    Trips,
}

/// The programs.
#[derive(Clone, Debug)]
struct Programs {
    lpm: PathBuf,
    irtt: Option<PathBuf>,
    stamp_suite: Vec<PathBuf>,
}

/// Measures and writes the tables.
///
/// # Errors
/// A network cannot be laid, a program fails, or the tables cannot be written.
pub fn main(args: &Args) -> Result<()> {
    let lpm = match &args.lpm {
        Some(lpm) => lpm.clone(),
        None => std::env::current_exe()
            .context("find this program")?
            .with_file_name("lpm"),
    };
    let programs = Programs {
        lpm,
        irtt: args.irtt.clone(),
        stamp_suite: args.stamp_suite.clone(),
    };
    let mut text = report::head(args);
    if args.only != Some(Part::Trips) {
        let measured = reflector::measure(args, &programs)?;
        text += &report::reflectors(&measured);
    }
    if args.only != Some(Part::Reflector) {
        let measured = trips::measure(args, &programs)?;
        text += &report::trips(&measured);
    }
    print!("{text}");
    fs::write(&args.output, text).with_context(|| format!("write {}", args.output.display()))
}
