//! `lpm-bench scopes`: what each scope of names costs the API server, and the agent.

mod listeners;
mod memory;
mod meter;
mod objects;
mod report;
mod server;

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

/// What `identity.kubernetes.scope` `cluster` and `node` cost the API server and the agent, measured on a
/// real one and extrapolated to large clusters.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  lpm-bench scopes --nodes 100,1000")]
pub(crate) struct Args {
    /// Sizes of clusters
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1_000, 5_000])]
    nodes: Vec<u32>,
    /// Measure and print the memory of one cluster size in one scope
    #[arg(long, hide = true)]
    alone: Option<String>,
    /// Where to write the tables as Markdown
    #[arg(long, default_value = "bench/results/scopes.md")]
    output: PathBuf,
}

pub(crate) fn main(args: &Args) -> Result<()> {
    if let Some(scope) = &args.alone {
        return args
            .nodes
            .iter()
            .try_for_each(|nodes| memory::alone(*nodes, scope));
    }
    let api = server::api()?;
    server::fill(&api)?;
    let nobody = server::measure(&api, None)?;
    let cluster = server::measure(&api, Some(false))?;
    let node = server::measure(&api, Some(true))?;
    let listeners = listeners::measure(&api)?;
    drop(api);
    let memory = memory::measure(&args.nodes)?;
    let text = report::text(&args.nodes, [&nobody, &cluster, &node], &listeners, &memory);
    print!("{text}");
    fs::write(&args.output, text).with_context(|| format!("write {}", args.output.display()))
}
