//! The table.

use std::{fmt::Write as _, time::Duration};

use super::{Args, agent::Series};
use lpm_testbed::machine;

/// What one configuration came to.
#[derive(Debug)]
pub(super) struct Row {
    /// What is told apart.
    pub(super) name: &'static str,
    pub(super) series: Series,
    /// Time of a scrape: median and longest.
    pub(super) protobuf: (Duration, Duration),
    /// The agent's own time on CPUs per scrape.
    pub(super) protobuf_cpu: Duration,
    pub(super) text: (Duration, Duration),
    pub(super) text_cpu: Duration,
    /// Anonymous memory, bytes.
    pub(super) memory: u64,
    /// Mapped memory, bytes.
    pub(super) mapped: u64,
    /// Of a core, 0 to 1.
    pub(super) share: f64,
}

pub(super) fn markdown(args: &Args, rows: &[Row]) -> String {
    let mut out = format!(
        "# Scale on one node\n\nBy `cargo xtask bench scale`. {}\n\n\
         {} pods, each behind a veth of its own in 1 of {} namespaces with a connection to one of two \
         services; {} requests a second in all. A scrape is the whole request over loopback; beside it \
         the agent's own time on CPUs. The share of a core is over {} s with a scrape (protobuf) every \
         15 s. Targets: 20 ms, 40 MB, 1 %.\n\n\
         | told apart | histograms | series classic / native | scrape protobuf: median / longest / CPU, ms \
         | scrape text, ms | text, MB | RssAnon, MB | mapped, MB | share of a core, % |\n\
         |---|---|---|---|---|---|---|---|---|\n",
        machine(),
        args.pods,
        args.pods.div_ceil(25),
        args.rate,
        args.seconds
    );
    for row in rows {
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "| {} | {} | {} / {} | {} | {} | {:.1} | {:.1} | {:.1} | {:.2} |",
            row.name,
            row.series.histograms,
            row.series.classic,
            row.series.native,
            times(row.protobuf, row.protobuf_cpu),
            times(row.text, row.text_cpu),
            megabytes(row.series.bytes as u64),
            megabytes(row.memory),
            megabytes(row.mapped),
            row.share * 100.0
        );
    }
    out
}

fn times((median, longest): (Duration, Duration), cpu: Duration) -> String {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    format!("{:.1} / {:.1} / {:.1}", ms(median), ms(longest), ms(cpu))
}

#[expect(clippy::cast_precision_loss, reason = "far less than 2^53")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
