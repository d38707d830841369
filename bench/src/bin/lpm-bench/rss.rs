//! Memory of this process.

use std::fs;

use anyhow::{Context as _, Result};

/// Anonymous memory of this process, bytes.
pub(crate) fn anonymous() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: u64 = kib.context("RssAnon is not there")?.parse()?;
    Ok(kib << 10)
}
