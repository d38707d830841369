//! Metrics of the agent itself: its programs' run time, its memory, its version and configuration.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use super::{collect::Collect, families::Families, process, sink::Unit};
use crate::kernel::own::MemoryLimit;

/// A function that gives the run time of each kernel program so far. Empty: the kernel does not
/// measure it.
pub type ProgramTimes = Box<dyn Fn() -> Vec<(&'static str, Duration)> + Send + Sync>;

/// The hash of the configuration that is in force.
#[derive(Debug, Default)]
pub struct ConfigHash(RwLock<String>);

impl ConfigHash {
    /// Keeps the hash of a configuration.
    #[must_use]
    pub fn new(hash: String) -> Self {
        Self(RwLock::new(hash))
    }

    /// Sets the hash of the configuration that is now in force.
    pub fn set(&self, hash: String) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = hash;
    }

    fn get(&self) -> String {
        let hash = self.0.read().unwrap_or_else(PoisonError::into_inner);
        hash.clone()
    }
}

/// The metrics of the agent itself.
pub(super) struct Agent {
    config_hash: Arc<ConfigHash>,
    program_times: ProgramTimes,
}

impl Agent {
    pub(super) fn new(config_hash: Arc<ConfigHash>, program_times: ProgramTimes) -> Self {
        Self {
            config_hash,
            program_times,
        }
    }
}

impl Collect for Agent {
    fn collect(&self, out: &mut Families<'_>) -> fmt::Result {
        let times = (self.program_times)()
            .into_iter()
            .map(|(program, time)| (vec![("program", program.to_owned())], time.as_secs_f64()));
        out.counters(
            "program_run",
            "Time spent in a kernel program, measured only while kernel.bpf_stats_enabled is 1",
            Some(Unit::Seconds),
            times,
        )?;
        process::memory(MemoryLimit::read(), out)?;
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        out.info("build", "The agent's version", version)?;
        out.info(
            "config_hash",
            "Hash of the configuration in effect",
            vec![("hash", self.config_hash.get())],
        )
    }
}
