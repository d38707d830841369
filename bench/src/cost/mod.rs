//! What a packet costs: the kernel's own run statistics on a real interface,
//! beside an empty program, a minimal monitor and, if asked, another one.

mod beside;
mod hot;
mod live;
mod methods;
mod peer;
mod play;
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
    lpm-bench cost --beside before/lpm --hot\n  \
    lpm-bench cost --peer 'epping=pping -i {interface} -I tc -f'")]
pub struct Args {
    /// Numbers of flows that are live at the same time
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100, 1000])]
    flows: Vec<usize>,
    /// Rounds per number of flows; each measures every program once [default:
    /// 12, or 30 with --beside]
    #[arg(long)]
    rounds: Option<usize>,
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
    /// LPM's kernel object of another build: only the ratios of both are
    /// measured, with their 95 % intervals
    #[arg(long, value_name = "OBJECT")]
    beside: Option<PathBuf>,
    /// With --beside: the greatest ratio that is wanted
    #[arg(long, default_value_t = 1.02)]
    at_most: f64,
    /// Only what runs hot, no live traffic
    #[arg(long)]
    hot: bool,
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
    /// Bulk streams, as many as there are flows, each as fast as it goes.
    Streams,
}

impl Args {
    fn rounds(&self) -> usize {
        let usual = if self.beside.is_some() { 30 } else { 12 };
        self.rounds.unwrap_or(usual)
    }
}

/// Runs it.
pub fn main(args: &Args) -> Result<()> {
    let mut report = report::Report::new(args);
    if let Some(other) = &args.beside {
        report.beside("Hot", args.at_most, &beside::measure(args, other)?);
    } else {
        report.hot(&hot::measure(args)?);
        report.methods(&methods::measure(args)?);
        report.layers(&tunnels_xdp::measure(args)?);
        report.questions(&queries::measure(args)?);
    }
    let live = if args.hot { &[][..] } else { &args.flows };
    for &flows in live {
        eprintln!("measuring {flows} live flows, {} rounds ...", args.rounds());
        let series = live::measure(args, flows)?;
        report.live(flows, args.traffic, &series);
        if args.beside.is_some() {
            let title = format!("Live, {flows} flows");
            report.beside(&title, args.at_most, &beside::of_live(&series)?);
        }
    }
    report.finish(args.output.as_deref())
}
