//! One run of the real binary.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

/// How often the process is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// What is run.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Case {
    /// For the table.
    pub name: &'static str,
    /// Arguments behind the file.
    pub options: &'static [&'static str],
    /// Whether the file is the compressed one.
    pub compressed: bool,
}

/// What it took.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// What was run.
    pub case: Case,
    /// From the start of the process to its end, seconds.
    pub seconds: f64,
    /// Largest resident set in the first tenth of the time, KiB.
    pub early_kib: u64,
    /// Largest resident set of all, KiB.
    pub most_kib: u64,
    /// What it said on stderr.
    pub said: String,
}

/// Runs `lpm replay` on a capture; what it prints is thrown away.
///
/// # Errors
/// It cannot be started, or fails.
pub fn measure(lpm: &Path, file: &Path, case: Case) -> Result<Figures> {
    let begun = Instant::now();
    let mut child = Command::new(lpm)
        .arg("replay")
        .arg(file)
        .args(case.options)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} cannot be started", lpm.display()))?;
    let mut resident = Vec::new();
    while child.try_wait()?.is_none() {
        if let Some(kib) = high_water(child.id()) {
            resident.push((begun.elapsed(), kib));
        }
        thread::sleep(LOOK);
    }
    let elapsed = begun.elapsed();
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    // Where the file lies is nobody's business.
    let said = said.replace(&file.display().to_string(), "FILE");
    if !output.status.success() {
        bail!("lpm replay failed: {said}");
    }
    let early = resident.iter().take_while(|(at, _)| *at <= elapsed / 10);
    Ok(Figures {
        case,
        seconds: elapsed.as_secs_f64(),
        early_kib: early.map(|(_, kib)| *kib).max().unwrap_or(0),
        most_kib: resident.iter().map(|(_, kib)| *kib).max().unwrap_or(0),
        said,
    })
}

/// `VmHWM` of a process, KiB.
fn high_water(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}
