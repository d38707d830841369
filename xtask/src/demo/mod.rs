//! `cargo xtask run`: the demo. It has two nodes as network namespaces, a `VxLAN` overlay between
//! them as L2S-M lays it out, and one agent per node. Three namespaces are slow for different
//! reasons.

mod children;
mod scene;

use std::{
    env, fs,
    io::{self, IsTerminal as _},
    net::SocketAddr,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use self::{
    children::{Child, wait_until},
    scene::{Layout, Traffic},
};
use crate::{
    build, paths, process,
    setup::{self, Part},
    signals,
};

/// Time between two tables where there is no terminal.
const TABLE_EVERY: Duration = Duration::from_secs(5);

/// How long an agent may take until it measures.
const AGENT_PATIENCE: Duration = Duration::from_secs(30);

/// Build, lay out the demo overlay, drive traffic and show its latency live.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask run                         the live view; q or Ctrl-C ends it\n  \
    cargo xtask run --delay 20ms            nodes 20 ms apart, one way\n  \
    cargo xtask run --no-tui --seconds 30   tables on stdout, for half a minute\n\n\
    Needs root or sudo. Everything happens in network namespaces that are made for it;\n\
    at the end nothing is left behind.")]
pub(crate) struct Args {
    /// One-way delay between the nodes
    #[arg(long, value_name = "TIME", default_value = "5ms")]
    delay: String,
    /// End after this many seconds; without it, at `q` or Ctrl-C
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Print tables instead of the live view, as happens without a terminal
    #[arg(long)]
    no_tui: bool,
    /// Port of the first agent; the second has the next
    #[arg(long, value_name = "PORT", default_value_t = 9477, value_parser = clap::value_parser!(u16).range(1..65535))]
    port: u16,
    /// Everything is built: what this program calls itself with, as root
    #[arg(long, hide = true)]
    built: bool,
}

/// The command `cargo xtask run`.
pub(crate) fn main(args: &Args) -> Result<()> {
    process::require_root_or_sudo("the demo makes network namespaces and")?;
    if !args.built {
        setup::ensure(&[Part::Build, Part::Run])?;
        build::for_tests()?;
    }
    // Made by the user, so that the user can remove what root writes into it.
    let logs = paths::target().join("demo");
    fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
    if !process::is_root() {
        return as_root(args);
    }
    signals::catch()?;
    let result = show(args, &logs);
    println!("run: removed the namespaces, links, programs and processes of the demo");
    result
}

/// Runs this program again through sudo. Building is left out: it stays the user's.
fn as_root(args: &Args) -> Result<()> {
    let mut command = process::privileged("env");
    if let Some(target) = env::var_os("CARGO_TARGET_DIR") {
        let mut variable = std::ffi::OsString::from("CARGO_TARGET_DIR=");
        variable.push(target);
        command.arg(variable);
    }
    let program = env::current_exe().context("cannot find this program itself")?;
    command
        .arg(program)
        .args(["run", "--built", "--delay", &args.delay]);
    command.arg(format!("--port={}", args.port));
    command.args(args.seconds.map(|seconds| format!("--seconds={seconds}")));
    command.args(args.no_tui.then_some("--no-tui"));
    process::run(&mut command)
}

/// Shows the demo. When this returns, everything that was started ends, the last first.
fn show(args: &Args, logs: &Path) -> Result<()> {
    let end = args
        .seconds
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    println!(
        "run: two nodes, four pods each, {} apart (one way)",
        args.delay
    );
    let (_testbed, layout) = Layout::start(&args.delay, logs)?;
    let names = logs.join("names.yaml");
    fs::write(&names, layout.names()).with_context(|| format!("write {}", names.display()))?;
    let config = logs.join("lpm.yaml");
    // The view shows which process talks. By default an agent gives up the right to look.
    fs::write(&config, "privileges: process_names\n")
        .with_context(|| format!("write {}", config.display()))?;

    let mut agents = Vec::new();
    for (node, port) in layout.nodes().iter().zip([args.port, args.port + 1]) {
        println!("run: an agent for {node}");
        let listen = SocketAddr::from(([127, 0, 0, 1], port));
        let mut command = Command::new(paths::dev_binary("lpm"));
        command.args([
            "run",
            "--netns",
            node,
            "--listen",
            &listen.to_string(),
            "--names",
        ]);
        command.arg(&names).arg("--config").arg(&config);
        let mut agent = Child::start(&mut command, &format!("agent-{port}"), logs)?;
        wait_until(AGENT_PATIENCE, "an agent to be ready", || {
            agent.check()?;
            Ok(children::answers(listen, "/readyz"))
        })?;
        agents.push((agent, listen));
    }
    println!("run: traffic: {}", Traffic::DESCRIPTION);
    let _traffic = Traffic::start(&layout, logs)?;

    let [(_, first), (_, second)] = &agents[..] else {
        bail!("two agents were to be started")
    };
    println!("\n  node a   http://{first}/metrics     http://{first}/api/v1/flows");
    println!("  node b   http://{second}/metrics     http://{second}/api/v1/flows");
    println!("  logs     {}\n", logs.display());
    let agent = format!("http://{first}");
    let live = !args.no_tui && io::stdout().is_terminal() && io::stdin().is_terminal();
    if live {
        live_view(&agent, end)
    } else {
        tables(&agent, end)
    }
}

/// Shows the live view on this terminal, until the user leaves it, time is up or a signal comes.
fn live_view(agent: &str, end: Option<Instant>) -> Result<()> {
    let mut command = Command::new(paths::dev_binary("lpm"));
    // In this process's group: it owns the terminal.
    let mut view = command
        .args(["top", "--tab", "namespaces", "--agent", agent])
        .spawn()
        .context("cannot start the live view")?;
    let status = children::wait_or_stop(&mut view, end)?;
    if !status.success() && !signals::stopped() {
        bail!("the live view ended with {status}");
    }
    Ok(())
}

/// Prints tables on stdout until time is up or a signal comes.
fn tables(agent: &str, end: Option<Instant>) -> Result<()> {
    println!(
        "run: a table every {} s; Ctrl-C ends it",
        TABLE_EVERY.as_secs()
    );
    while !signals::stopped() && end.is_none_or(|end| Instant::now() < end) {
        for tab in ["namespaces", "flows"] {
            let mut command = Command::new(paths::dev_binary("lpm"));
            command.args(["top", "--once", "--rows=12", "--agent", agent, "--tab", tab]);
            let mut table = command.spawn().context("cannot start `lpm top`")?;
            let status = children::wait_or_stop(&mut table, None)?;
            if !status.success() && !signals::stopped() {
                bail!("`lpm top` ended with {status}");
            }
            println!();
        }
        children::pause(TABLE_EVERY, end);
    }
    Ok(())
}
