//! What a packet costs: the kernel's own run statistics on a real interface,
//! beside an empty program, a minimal monitor and, if asked, another one.

mod hot;
mod live;
mod methods;
mod peer;
mod programs;
mod queries;
mod report;
mod tunnels_xdp;

use std::path::PathBuf;

use anyhow::Result;

/// Nanoseconds per packet, beside an empty program and a minimal one.
///
/// `empty` returns at once: what calling a program and reading the clock for
/// the statistics cost. `minimal` parses, looks one kernel hash map up, reads
/// the clock and updates. Net is gross less `empty`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lpm-bench cost --flows 1,100 --rounds 10\n  \
    lpm-bench cost --peer 'epping=pping -i {interface} -I tc -f'")]
pub struct Args {
    /// Numbers of flows that are live at the same time
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100, 1000])]
    flows: Vec<usize>,
    /// Rounds per number of flows; each measures every program once
    #[arg(long, default_value_t = 12)]
    rounds: usize,
    /// Milliseconds that a program is measured per round
    #[arg(long, default_value_t = 500)]
    milliseconds: u64,
    /// Requests per second over all flows
    #[arg(long, default_value_t = 10_000.0)]
    rate: f64,
    /// What flows: small requests and answers, or bulk streams (iperf3)
    #[arg(long, value_enum, default_value_t = Traffic::Requests)]
    traffic: Traffic,
    /// Another monitor, NAME=COMMAND; {interface} in it is the interface to
    /// watch. Its programs are those that appear while it starts
    #[arg(long)]
    peer: Option<peer::Peer>,
    /// LPM's kernel object
    #[arg(long, default_value = "target/bpf/lpm")]
    object: PathBuf,
    /// The kernel object with the programs to compare with
    #[arg(long, default_value = "target/bpf/lpm-bench")]
    bench_object: PathBuf,
    /// Where to write the table as Markdown too
    #[arg(long)]
    output: Option<PathBuf>,
}

/// What flows while the programs are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Traffic {
    /// Requests and answers of 64 bytes. With many flows nearly every packet
    /// has a new TSval and echoes another: each makes a sample, the most that
    /// a packet can cost.
    Requests,
    /// As many streams as fast as they go.
    Streams,
}

/// Runs it.
pub fn main(args: &Args) -> Result<()> {
    let mut report = report::Report::new(args);
    report.hot(&hot::measure(args)?);
    report.methods(&methods::measure(args)?);
    report.layers(&tunnels_xdp::measure(args)?);
    report.questions(&queries::measure(args)?);
    for &flows in &args.flows {
        eprintln!("measuring {flows} live flows, {} rounds ...", args.rounds);
        report.live(flows, args.traffic, &live::measure(args, flows)?);
    }
    report.finish(args.output.as_deref())
}
