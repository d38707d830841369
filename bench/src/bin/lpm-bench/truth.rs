//! `lpm-bench truth`: what the agent measures against the delay line's own log.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use lpm_testbed::truth::{Method, Plan, Report, Runner};

/// Measured round-trip times against the delay line's own log.
///
/// Without delay first; every delay is then held against that. Needs root,
/// tcpdump, tshark and python3.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lpm-bench truth\n  \
    lpm-bench truth --method seq\n  \
    lpm-bench truth --delays 1ms,20ms --output /tmp/truth.md")]
pub(crate) struct Args {
    /// How round trips are measured: `ts`, or `seq` on connections without
    /// timestamps
    #[arg(long, value_enum, default_value_t = By::Ts)]
    method: By,
    /// One-way delays of the wire, the same in both directions
    #[arg(
        long,
        value_delimiter = ',',
        value_parser = humantime::parse_duration,
        default_value = "200us,1ms,5ms,20ms,100ms,200ms"
    )]
    delays: Vec<Duration>,
    /// Prompt samples of the remote leg that are required at each delay
    #[arg(long, default_value_t = 1000)]
    samples: usize,
    /// The agent; by default `lpm` beside this binary
    #[arg(long)]
    lpm: Option<PathBuf>,
    /// Skip the comparison with an unlimited matcher on a capture
    #[arg(long)]
    no_capture: bool,
    /// Where to write the tables as Markdown; the figures go beside it as JSON
    /// [default: bench/results/truth.md, or truth-seq.md]
    #[arg(long)]
    output: Option<PathBuf>,
}

/// A method whose every sample the wire's log can judge.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum By {
    /// TCP timestamps.
    Ts,
    /// TCP sequence numbers.
    Seq,
}

impl By {
    fn method(self) -> Method {
        match self {
            Self::Ts => Method::Ts,
            Self::Seq => Method::Seq,
        }
    }

    fn output(self) -> &'static str {
        match self {
            Self::Ts => "bench/results/truth.md",
            Self::Seq => "bench/results/truth-seq.md",
        }
    }

    /// How the results begin.
    fn title(self) -> &'static str {
        match self {
            Self::Ts => {
                "# Error against the ground truth\n\nBy `cargo xtask bench truth`; connections \
                 without timestamps are in [truth-seq.md](truth-seq.md)."
            }
            Self::Seq => {
                "# Error against the ground truth, without timestamps\n\n\
                 By `cargo xtask bench truth --method seq`."
            }
        }
    }
}

pub(crate) fn main(args: &Args) -> Result<()> {
    let lpm = match &args.lpm {
        Some(lpm) => lpm.clone(),
        None => std::env::current_exe()?.with_file_name("lpm"),
    };
    if !lpm.is_file() {
        bail!(
            "there is no agent at {}: run `cargo xtask build`, or give one with --lpm",
            lpm.display()
        );
    }
    let directory = Temporary::new()?;
    let runner = Runner::new(&lpm, args.method.method())?;
    let mut results = Vec::new();
    for delay in [&[Duration::ZERO], &args.delays[..]].concat() {
        eprintln!("measuring at {delay:?} each way ...");
        let mut plan = Plan::new(delay);
        plan.samples = args.samples;
        if !args.no_capture {
            plan.unlimited = Some((directory.0.join("hook.pcap"), scripts()));
        }
        let result = runner.run(&plan)?;
        eprintln!(
            "  {} prompt samples, median {:.1} us, {:.1} us beyond the delay",
            result.rtt.count,
            result.rtt.p50 / 1e3,
            result.beyond_delay.p50 / 1e3
        );
        results.push(result);
    }
    let report = Report::new(results, None);
    let text = format!("{} {report}", args.method.title());
    print!("{text}");
    let output = args.output.as_deref();
    let output = output.unwrap_or(Path::new(args.method.output()));
    write(output, text.as_bytes())?;
    let json = serde_json::to_vec_pretty(&report)?;
    write(&output.with_extension("json"), &json)?;
    if !report.holds() {
        bail!("a bound is exceeded; see the list above");
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
    }
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// Where the reference is that decides which samples there should be.
fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/oracle")
}

/// A directory that goes with its guard: captures are large.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> Result<Self> {
        let name = format!("lpm-truth-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Nothing can be done about a directory that stays.
        let _ = fs::remove_dir_all(&self.0);
    }
}
