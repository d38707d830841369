//! Tests the demo: it shows what it should, and leaves nothing behind.

use std::{
    env, fs,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{output::Tally, runner};
use crate::process;

/// How long the demo shows tables, seconds. [`LIMIT`] is how long all of it may take.
const SECONDS: &str = "10";
const LIMIT: Duration = Duration::from_mins(3);

/// Runs the demo without a terminal, then checks what it printed and what it left behind.
pub(super) fn run() -> Result<Tally> {
    let mut command = Command::new(env::current_exe().context("cannot find this program")?);
    process::scrub(&mut command);
    command.args(["run", "--built", "--no-tui", "--seconds", SECONDS]);
    command.arg(format!("--port={}", free_ports()?));
    let mut printed = Vec::new();
    let success = runner::run(&mut command, LIMIT, |line| printed.push(line.to_owned()))?;

    let mut tally = Tally::default();
    let mut judge = |good: bool, name: &str| {
        tally.add(if good {
            Tally::one_pass()
        } else {
            Tally::one_failure(name)
        });
    };
    judge(success, "the demo ends well");
    for namespace in ["shop", "media", "reports"] {
        let row = |line: &String| {
            let words: Vec<_> = line.split_whitespace().collect();
            words.starts_with(&[namespace, namespace, "pod", "remote", "prompt"])
        };
        judge(
            printed.iter().any(row),
            &format!("{namespace} has prompt samples"),
        );
    }
    let nodes: Vec<&str> = printed
        .iter()
        .filter_map(|line| line.strip_prefix("run: an agent for "))
        .collect();
    judge(nodes.len() == 2, "two agents");
    let namespaces = nodes
        .iter()
        .any(|node| Path::new("/run/netns").join(node).exists());
    judge(!namespaces, "no network namespace is left");
    judge(
        !nodes.iter().any(|node| mentioned_by_a_process(node)),
        "no process is left",
    );
    Ok(tally)
}

/// Finds a port that is free and whose successor is free, too.
fn free_ports() -> Result<u16> {
    let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    (20_000..30_000)
        .step_by(2)
        .find(|&port| free(port) && free(port + 1))
        .context("no two free ports next to each other from 20000 to 30000")
}

/// Whether the command line of any process names `text`.
fn mentioned_by_a_process(text: &str) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else {
        return false;
    };
    processes
        .filter_map(std::result::Result::ok)
        .any(|process| {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(text)
        })
}
