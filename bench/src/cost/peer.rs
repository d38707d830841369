//! Another monitor, started as its users start it.

use std::{
    collections::HashSet,
    process::{Child, Command},
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::programs::{ProgramInfo, loaded_programs};

use super::programs::Run;

/// A monitor's name and how to start it.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) name: String,
    command: String,
}

impl FromStr for Peer {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, command) = text.split_once('=').context("want NAME=COMMAND")?;
        ensure!(!name.is_empty() && !command.is_empty(), "want NAME=COMMAND");
        Ok(Self {
            name: name.to_owned(),
            command: command.to_owned(),
        })
    }
}

/// Ends the monitor, and waits for it, whatever happens.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.0.id()) {
            let pid = nix::unistd::Pid::from_raw(pid);
            // It may have ended by itself.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
        }
        let _ = self.0.wait();
    }
}

impl Peer {
    /// Starts it, waits until its programs have seen traffic, measures, ends
    /// it. The two busiest of its programs count as its two directions.
    pub(super) fn turn(&self, interface: &str, warm: u64, milliseconds: u64) -> Result<[Run; 2]> {
        let before = ids()?;
        let command = self.command.replace("{interface}", interface);
        let mut child = Command::new("sh");
        child
            .args(["-c", &format!("exec {command}")])
            .stdout(std::process::Stdio::null());
        let running = Running(child.spawn().with_context(|| command.clone())?);
        let deadline = Instant::now() + Duration::from_secs(20);
        while busiest(&before)?.iter().any(|(_, run)| run.packets < warm) {
            ensure!(
                Instant::now() < deadline,
                "{}: its programs see too few packets; does `{command}` run?",
                self.name
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        let start = busiest(&before)?;
        std::thread::sleep(Duration::from_millis(milliseconds * 2));
        let mut runs = [Run::default(); 2];
        for (run, (info, before)) in runs.iter_mut().zip(&start) {
            *run = Run::of(info)?.since(*before);
        }
        drop(running);
        Ok(runs)
    }
}

fn ids() -> Result<HashSet<u32>> {
    loaded_programs().map(|info| Ok(info?.id())).collect()
}

/// The two programs, of those that are new, that ran most.
fn busiest(before: &HashSet<u32>) -> Result<[(ProgramInfo, Run); 2]> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut new = Vec::new();
        for info in loaded_programs() {
            let Ok(info) = info else { continue };
            if !before.contains(&info.id()) {
                let run = Run::of(&info)?;
                new.push((info, run));
            }
        }
        // In the order of their ids, so that a direction stays a direction.
        new.sort_by_key(|(_, run)| std::cmp::Reverse(run.packets));
        new.truncate(2);
        new.sort_by_key(|(info, _)| info.id());
        if let Ok(two) = <[_; 2]>::try_from(new) {
            return Ok(two);
        }
        ensure!(
            Instant::now() < deadline,
            "the peer loads fewer than two programs"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
