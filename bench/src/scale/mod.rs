//! `lpm-bench scale`: what one agent costs on a node with many pods: the time of a scrape, its
//! memory, its share of a core.

mod agent;
mod report;
mod topology;

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use self::{
    agent::{Agent, Format},
    report::Row,
    topology::Topology,
};

/// One agent on a node with many pods.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  lpm-bench scale --pods 250 --seconds 60")]
pub struct Args {
    /// Pods, each with an interface and a connection
    #[arg(long, default_value_t = 250)]
    pods: u16,
    /// Requests per second, of all pods together
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// Seconds during which the agent's share of a core is measured, at one scrape every 15 s
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Number of scrapes that are timed
    #[arg(long, default_value_t = 40)]
    scrapes: usize,
    /// The agent's binary; by default the one beside this program
    #[arg(long)]
    lpm: Option<PathBuf>,
    /// Where to write the table as Markdown
    #[arg(long, default_value = "bench/results/scale.md")]
    output: PathBuf,
}

/// How often Prometheus asks.
const SCRAPE_EVERY: Duration = Duration::from_secs(15);

/// What is told apart: a name, and the key `levels`.
const LEVELS: [(&str, &str); 3] = [
    ("namespaces", "{}"),
    (
        "workloads and services",
        "{workload: true, service: true, top: 600}",
    ),
    (
        "pods too",
        "{workload: true, service: true, pod: true, top: 600}",
    ),
];

/// Measures each level and writes the table.
///
/// # Errors
/// The topology cannot be laid, the agent does not serve, or the table cannot be written.
pub fn main(args: &Args) -> Result<()> {
    let lpm = match &args.lpm {
        Some(lpm) => lpm.clone(),
        None => std::env::current_exe()
            .context("find this program")?
            .with_file_name("lpm"),
    };
    let topology = Topology::new(args.pods, args.rate)?;
    let mut rows = Vec::new();
    for (name, levels) in LEVELS {
        let agent = Agent::start(&lpm, &topology, levels)?;
        agent.wait_for(usize::from(args.pods))?;
        rows.push(measure(args, &agent, name)?);
        eprintln!("{name}: done");
    }
    let table = report::markdown(args, &rows);
    print!("{table}");
    fs::write(&args.output, table).with_context(|| format!("write {}", args.output.display()))
}

fn measure(args: &Args, agent: &Agent, name: &'static str) -> Result<Row> {
    let share = share_of_a_core(agent, Duration::from_secs(args.seconds))?;
    let mut times = Vec::new();
    let mut of_agent = Vec::new();
    for format in [Format::Protobuf, Format::Text] {
        let (cpu, mut wall) = (agent.cpu()?, Vec::new());
        for _ in 0..args.scrapes {
            let begun = Instant::now();
            agent.scrape(format)?;
            wall.push(begun.elapsed());
        }
        let scrapes = u32::try_from(args.scrapes.max(1)).unwrap_or(u32::MAX);
        of_agent.push((agent.cpu()?.saturating_sub(cpu)) / scrapes);
        wall.sort_unstable();
        times.push(wall);
    }
    let [protobuf, text] = [&times[0], &times[1]].map(|wall| {
        let median = wall.get(wall.len() / 2).copied().unwrap_or_default();
        (median, wall.last().copied().unwrap_or_default())
    });
    let series = agent.series()?;
    Ok(Row {
        name,
        series,
        protobuf,
        protobuf_cpu: of_agent[0],
        text,
        text_cpu: of_agent[1],
        memory: agent.anonymous()?,
        mapped: agent.mapped()?,
        share,
    })
}

/// The agent's time on all CPUs by time passed, while Prometheus scrapes it.
fn share_of_a_core(agent: &Agent, time: Duration) -> Result<f64> {
    let (begun, before) = (Instant::now(), agent.cpu()?);
    let mut next = begun;
    while begun.elapsed() < time {
        agent.scrape(Format::Protobuf)?;
        next += SCRAPE_EVERY.min(time);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let passed = begun.elapsed();
    Ok((agent.cpu()?.saturating_sub(before)).as_secs_f64() / passed.as_secs_f64())
}
