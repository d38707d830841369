//! `lpm-testbed soak`: agents under mixed load.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use lpm_testbed::{
    kubernetes, machine,
    soak::{Config, Error, Report, run},
};

/// What the tables show, and the rule.
const WHAT: &str = "\
Two agents watch one node. Each has a pod, one with TCP timestamps and one without, that talks to a
remote machine 2 ms away: by long and short connections, and the first one by pings and DNS too. The
steady agent runs all the time, the mortal one is killed (SIGKILL) again and again and started over
its pins. Interfaces come and go, an address has another owner every second, and the API server is
restarted now and then.

Each row has the medians of the time since the row before. The rule: in the last quarter of the time
the median of no measure is higher than in the second quarter, but for RssAnon by 1 MiB, for
descriptors by 2, for threads by 1, for the maps' memory by 64 KiB, and for how full tables are by 3
percent points.";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long it lasts
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// All happens more often, so that minutes show what an hour would
    #[arg(long)]
    dense: bool,
    /// The agent; by default `lpm` beside this binary
    #[arg(long)]
    lpm: Option<PathBuf>,
    /// Where to write the tables as Markdown
    #[arg(long)]
    output: Option<PathBuf>,
}

pub(crate) fn main(args: &Args) -> anyhow::Result<()> {
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
    let lasts = Duration::from_mins(args.minutes);
    let config = if args.dense {
        Config::dense(&lpm, lasts)
    } else {
        Config::new(&lpm, lasts)
    };
    let report = match run(&config) {
        Err(Error::Kubernetes(error @ kubernetes::Error::Missing { .. })) => {
            println!("LPM-SKIP soak: {error}");
            return Ok(());
        }
        report => report?,
    };
    let text = markdown(args, &report);
    print!("{text}");
    if let Some(output) = &args.output {
        fs::write(output, text).with_context(|| format!("write {}", output.display()))?;
    }
    if !report.faults().is_empty() {
        bail!("something grew or was wrong; see the list above");
    }
    Ok(())
}

fn markdown(args: &Args, report: &Report) -> String {
    let minutes = args.minutes;
    format!(
        "# Soak\n\nBy `cargo xtask soak --minutes {minutes}`. {}\n\n{WHAT}\n\n{report}",
        machine()
    )
}
