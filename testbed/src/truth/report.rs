//! What all delays come to, and whether that is good enough.

use std::fmt::{self, Write as _};

use serde::Serialize;

use super::{RunResult, float};

/// What a bound allows: 5 % of the round trip, or 10 us.
const SHARE: f64 = 0.05;
const FLOOR_NS: f64 = 10_000.0;

/// What the local leg may differ by: it must show none of the delay, however
/// long that is.
const LOCAL_NS: f64 = 100_000.0;

/// A percentile outside the bucket that holds the truth is still at its edge
/// if it is off by no more than this share.
const EDGE: f64 = 0.01;

/// One bound, and whether it holds.
#[derive(Debug, Clone, Serialize)]
pub struct Judgement {
    /// What was asked, and the figures.
    pub what: String,
    /// Whether it holds.
    pub holds: bool,
}

/// The results of a run. The first one is at delay 0.
#[derive(Debug, Serialize)]
pub struct Report {
    /// On what it was measured.
    pub machine: String,
    /// The results, in the order of their delays.
    pub results: Vec<RunResult>,
    /// The bounds.
    pub judgements: Vec<Judgement>,
}

impl Report {
    /// Judges results, of which the first is at delay 0; `share` and
    /// `floor_ns` replace the bound of 5 % or 10 us where the machine is not
    /// the measurement's own.
    ///
    /// # Panics
    ///
    /// If there is no result.
    #[must_use]
    pub fn new(results: Vec<RunResult>, band: Option<(f64, f64)>) -> Self {
        let band = band.unwrap_or((SHARE, FLOOR_NS));
        let mut judgements = Vec::new();
        let zero = &results[0];
        for result in &results {
            if result.delay_ns > 0 {
                beside_zero(zero, result, band, &mut judgements);
            }
            samples(result, &mut judgements);
        }
        Self {
            machine: machine(),
            results,
            judgements,
        }
    }

    /// Whether all bounds hold.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.judgements.iter().all(|judgement| judgement.holds)
    }
}

/// What must not depend on the delay, and what the client says.
fn beside_zero(zero: &RunResult, result: &RunResult, band: (f64, f64), into: &mut Vec<Judgement>) {
    let at = millis(result.delay_ns);
    let mut add = |holds, what| into.push(Judgement { what, holds });
    let allowed = (result.rtt.p50 * band.0).max(band.1);
    let parts = [
        ("the wire's delay", &result.beyond_delay, &zero.beyond_delay),
        ("the wire's log", &result.beyond_log, &zero.beyond_log),
    ];
    for (name, here, there) in parts {
        let off = here.p50 - there.p50;
        add(
            off.abs() <= allowed,
            format!(
                "{at}: remote prompt samples show {:.1} us beyond {name}, {:.1} us at no delay: \
                 off by {:+.1} us, {:.1} us allowed",
                here.p50 / 1e3,
                there.p50 / 1e3,
                off / 1e3,
                allowed / 1e3
            ),
        );
    }
    let off = result.local.p50 - zero.local.p50;
    let allowed = LOCAL_NS.max(band.1);
    add(
        off.abs() <= allowed,
        format!(
            "{at}: the local leg shows {:.1} us, {:.1} us at no delay: off by {:+.1} us, {:.1} us \
             allowed",
            result.local.p50 / 1e3,
            zero.local.p50 / 1e3,
            off / 1e3,
            allowed / 1e3
        ),
    );
    let client = &result.client;
    let sum = client.remote.p50 + client.local.p50;
    let off = sum - client.own_p50;
    let allowed = (client.own_p50 * band.0).max(band.1);
    add(
        off.abs() <= allowed,
        format!(
            "{at}: local + remote {:.1} us, the client itself {:.1} us (medians): off by {:+.1} us, \
             {:.1} us allowed",
            sum / 1e3,
            client.own_p50 / 1e3,
            off / 1e3,
            allowed / 1e3
        ),
    );
}

/// No false samples, and a choice without bias.
fn samples(result: &RunResult, into: &mut Vec<Judgement>) {
    let at = millis(result.delay_ns);
    let mut add = |holds, what| into.push(Judgement { what, holds });
    add(
        result.unlogged == 0,
        format!(
            "{at}: {} samples of packets that the wire never saw",
            result.unlogged
        ),
    );
    let Some(unlimited) = &result.unlimited else {
        return;
    };
    add(
        unlimited.false_samples == 0,
        format!(
            "{at}: {} samples that a matcher without limits does not have",
            unlimited.false_samples
        ),
    );
    add(
        unlimited.mean_off.abs() <= SHARE,
        format!(
            "{at}: mean {:.1} us of the {} samples chosen, {:.1} us of all {}: {:+.2} %",
            unlimited.chosen.mean / 1e3,
            unlimited.chosen.count,
            unlimited.full.mean / 1e3,
            unlimited.full.count,
            unlimited.mean_off * 100.0,
        ),
    );
    for (name, inside, off) in &unlimited.percentiles {
        let place = match (inside, off.abs() <= EDGE) {
            (true, _) => "in the bucket of the truth",
            (false, true) => "across the edge of the bucket of the truth, within 1 %",
            (false, false) => "in another bucket than the truth",
        };
        add(
            *inside || off.abs() <= EDGE,
            format!("{at}: {name} {place} ({:+.2} %)", off * 100.0),
        );
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.machine)?;
        f.write_str(&self.prompt()?)?;
        f.write_str(&self.sampling()?)?;
        f.write_str(&self.legs()?)?;
        writeln!(f, "## Bounds\n")?;
        for judgement in &self.judgements {
            let verdict = if judgement.holds {
                "holds"
            } else {
                "**FAILS**"
            };
            writeln!(f, "- {verdict}: {}", judgement.what)?;
        }
        Ok(())
    }
}

impl Report {
    /// What prompt samples show beyond the wire.
    fn prompt(&self) -> Result<String, fmt::Error> {
        let mut text = String::from(
            "## Remote leg, `prompt`\n\n\
             Delay is one-way. Truth: from the stamped packet's arrival at the wire to its echo's \
             departure, from the wire's log. \"Beyond the delay\" is what a sample shows beyond the \
             time the wire held its two packets, \"beyond the log\" beyond the truth. Times in us, \
             medians unless marked.\n\n\
             | delay | samples | measured | truth | beyond the delay (p90) | off from no delay | \
             beyond the log (p99) | wire late p50 / p99 |\n|---|---|---|---|---|---|---|---|\n",
        );
        let Some(zero) = self.results.first() else {
            return Ok(text);
        };
        for o in &self.results {
            let us = |ns: f64| ns / 1e3;
            writeln!(
                text,
                "| {} | {} | {:.1} | {:.1} | {:.1} ({:.1}) | {:+.1} | {:.1} ({:.1}) | {:.1} / {:.1} |",
                millis(o.delay_ns),
                o.rtt.count,
                us(o.rtt.p50),
                us(o.truth.p50),
                us(o.beyond_delay.p50),
                us(o.beyond_delay.p90),
                us(o.beyond_delay.p50 - zero.beyond_delay.p50),
                us(o.beyond_log.p50),
                us(o.beyond_log.p99),
                us(float(o.wire.p50_ns)),
                us(float(o.wire.p99_ns)),
            )?;
        }
        text.push('\n');
        Ok(text)
    }

    /// What the slot policy took and left.
    fn sampling(&self) -> Result<String, fmt::Error> {
        let mut text = String::from(
            "## What the slot policy skipped\n\n\
             Samples are of the remote leg of the flows that count; stamps are of all flows and \
             both legs. \"Without limits\" is a matcher that stamps every TSval, or every segment, on \
             a capture at the same hook; \"mean off\" is what choosing does to the mean, by the capture's clock; \
             \"clocks\" is the agent's time less the capture's, of the same samples (mean, sigma, \
             us).\n\n\
             | delay | flows | samples/s | prompt/s | stamps stored | slots full | spaced | passed | \
             expired | prompt samples / without limits | mean off | clocks |\n\
             |---|---|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for o in &self.results {
            let stamps = &o.stamps;
            let compared = o.unlimited.as_ref().map_or_else(
                || "not compared | |".to_owned(),
                |u| {
                    format!(
                        "{} / {} | {:+.2} % | {:+.1}, {:.1} |",
                        u.chosen.count,
                        u.full.count,
                        u.mean_off * 100.0,
                        u.clocks.mean / 1e3,
                        u.clocks.sigma / 1e3
                    )
                },
            );
            writeln!(
                text,
                "| {} | {} | {:.0} | {:.0} | {} | {} | {} | {} | {} | {compared}",
                millis(o.delay_ns),
                o.flows,
                o.per_second(),
                o.prompt_per_second(),
                stamps.stored,
                stamps.slots_full,
                stamps.spaced,
                stamps.passed,
                stamps.expired,
            )?;
        }
        text.push('\n');
        Ok(text)
    }

    /// Local and remote, and the client.
    fn legs(&self) -> Result<String, fmt::Error> {
        let mut text = String::from(
            "## Local leg, and the client's own view\n\n\
             Local: pure ACKs (`prompt` and `lone`) of data sent to the pod. Client: requests of 100 bytes back to \
             back, timed by the client, beside both legs (`data`) of the same flows. Medians, us.\n\n\
             | delay | local (p99) | samples | client | local + remote | off | requests |\n\
             |---|---|---|---|---|---|---|\n",
        );
        for o in &self.results {
            let (us, client) = (|ns: f64| ns / 1e3, &o.client);
            let sum = client.remote.p50 + client.local.p50;
            writeln!(
                text,
                "| {} | {:.1} ({:.1}) | {} | {:.1} | {:.1} + {:.1} = {:.1} | {:+.1} | {} |",
                millis(o.delay_ns),
                us(o.local.p50),
                us(o.local.p99),
                o.local.count,
                us(client.own_p50),
                us(client.local.p50),
                us(client.remote.p50),
                us(sum),
                us(sum - client.own_p50),
                client.requests,
            )?;
        }
        text.push('\n');
        Ok(text)
    }
}

fn millis(ns: u64) -> String {
    format!("{} ms", float(ns) / 1e6)
}

/// Kernel, CPUs and what else was going on.
#[must_use]
pub fn machine() -> String {
    let read = |path| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.trim().to_owned()
    };
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let load = read("/proc/loadavg");
    let load: Vec<_> = load.split_whitespace().take(3).collect();
    let kernel = read("/proc/sys/kernel/osrelease");
    // The version; what follows names somebody's build of it.
    let version = kernel.split('-').next().unwrap_or_default();
    format!(
        "Linux {version}, {cpus} CPUs, load average at the end {} (1, 5, 15 minutes).",
        load.join(" ")
    )
}
