//! Metrics of the agent's own process by Prometheus' conventions (`process_*`), and its distance to
//! the memory limit. A value that is unknown, or has no limit, has no series.

use std::{fmt, time::UNIX_EPOCH};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, registry::Unit};

use super::families::Families;
use crate::kernel::own::{MemoryLimit, OwnProcess};

/// Writes the `process_*` metrics.
#[derive(Debug)]
pub(super) struct ProcessReader;

impl Collector for ProcessReader {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        own(&OwnProcess::read(), &mut Families(encoder))
    }
}

/// Writes what is known of a process.
pub(super) fn own(own: &OwnProcess, out: &mut Families<'_>) -> fmt::Result {
    out.counters(
        "cpu",
        "Total user and system CPU time spent in seconds",
        Some(&Unit::Seconds),
        own.cpu.map(|time| (vec![], time.as_secs_f64())),
    )?;
    for (name, help, value) in [
        (
            "resident_memory_bytes",
            "Resident memory size in bytes",
            own.resident,
        ),
        (
            "virtual_memory_bytes",
            "Virtual memory size in bytes",
            own.virtual_memory,
        ),
        (
            "virtual_memory_max_bytes",
            "Maximum amount of virtual memory available in bytes",
            own.virtual_memory_max,
        ),
        (
            "open_fds",
            "Number of open file descriptors",
            own.open_files,
        ),
        (
            "max_fds",
            "Maximum number of open file descriptors",
            own.open_files_max,
        ),
    ] {
        out.gauges(name, help, value.map(|value| (vec![], value)))?;
    }
    let started = own
        .started
        .and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    out.gauges(
        "start_time_seconds",
        "Start time of the process since unix epoch in seconds",
        started.map(|at| (vec![], at.as_secs_f64())),
    )
}

/// Writes a memory limit and how much of it is used; nothing if there is none.
pub(super) fn memory(memory: Option<MemoryLimit>, out: &mut Families<'_>) -> fmt::Result {
    out.gauges(
        "memory_limit_bytes",
        "Memory limit of the agent's control group, or of a group above it if that is nearer; \
         absent if there is no limit",
        memory.map(|memory| (vec![], memory.limit)),
    )?;
    out.gauges(
        "memory_used_bytes",
        "Memory in use of lpm_memory_limit_bytes, without what the kernel can free at once (the \
         working set)",
        memory.map(|memory| (vec![], memory.used)),
    )
}
