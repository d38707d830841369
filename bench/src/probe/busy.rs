//! Processes that want all of each CPU.

use std::{
    process::{Child, Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result};

/// One process on each CPU that computes without end, until dropped.
#[derive(Debug)]
pub(super) struct Busy(Vec<Child>);

impl Busy {
    pub(super) fn start() -> Result<Self> {
        let cpus = thread::available_parallelism().context("count the CPUs")?;
        let mut busy = Self(Vec::new());
        for cpu in 0..cpus.get() {
            let child = Command::new("taskset")
                .args([
                    "--cpu-list",
                    &cpu.to_string(),
                    "sh",
                    "-c",
                    "while :; do :; done",
                ])
                .stdin(Stdio::null())
                .spawn()
                .context("run taskset")?;
            busy.0.push(child);
        }
        Ok(busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // A child that has ended already needs no end.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
