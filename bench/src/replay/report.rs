//! All runs, and whether they are good enough.

use std::fmt;

use serde::Serialize;

use super::Figures;

/// How much a run's memory may grow after its first tenth, KiB.
const GROWTH_KIB: u64 = 16 << 10;

/// The runs on one capture.
#[derive(Debug, Serialize)]
pub struct Report {
    /// On what it was measured.
    pub machine: String,
    /// Length of the capture, bytes.
    pub bytes: u64,
    /// The same compressed, bytes.
    pub compressed: u64,
    /// Packets in it.
    pub packets: u64,
    /// How long it took to record, seconds.
    pub recorded_seconds: f64,
    /// The runs.
    pub runs: Vec<Figures>,
}

impl Report {
    /// Whether every run was faster than the recording, and none's memory grew with it.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.runs
            .iter()
            .all(|run| self.is_fast(run) && is_flat(run))
    }

    fn is_fast(&self, run: &Figures) -> bool {
        run.seconds < self.recorded_seconds
    }
}

fn is_flat(run: &Figures) -> bool {
    run.most_kib < run.early_kib + GROWTH_KIB
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let float = lpm_testbed::truth::float;
        writeln!(
            f,
            "# Captures\n\n\
             By `cargo xtask bench replay`. {}\n\n\
             A capture of {:.2} GB ({:.2} GB compressed) with {:.2} million packets, recorded in {:.1} s; from the page \
             cache, output thrown away.\n\n\
             | run | s | MB/s | million packets/s | times the recording's speed | memory, MiB: first tenth, most | holds |\n\
             |---|---|---|---|---|---|---|",
            self.machine,
            float(self.bytes) / 1e9,
            float(self.compressed) / 1e9,
            float(self.packets) / 1e6,
            self.recorded_seconds,
        )?;
        for run in &self.runs {
            writeln!(
                f,
                "| {} | {:.2} | {:.0} | {:.2} | {:.1} | {:.1}, {:.1} | {} |",
                run.case.name,
                run.seconds,
                float(self.bytes) / 1e6 / run.seconds,
                float(self.packets) / 1e6 / run.seconds,
                self.recorded_seconds / run.seconds,
                float(run.early_kib) / 1024.0,
                float(run.most_kib) / 1024.0,
                if self.is_fast(run) && is_flat(run) {
                    "yes"
                } else {
                    "NO"
                },
            )?;
        }
        writeln!(
            f,
            "\n`lpm` said of the first run:\n\n```\n{}```",
            self.runs.first().map_or("", |run| &run.said)
        )
    }
}
