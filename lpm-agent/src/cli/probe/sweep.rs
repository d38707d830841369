//! `lpm probe --protocol udp-sweep`: a reflector by many source ports, and which of them are bad.

use std::{
    io::{self, Write},
    net::SocketAddr,
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::{
    super::{
        show::{maybe, padded, time},
        signals::BlockedSignals,
    },
    Format, Probe, enter, json as records,
    text::row,
};
use crate::active::{
    plan::{Plan, Train},
    statistics::Distribution,
    sweep::{
        Flow, Judged, Sweep,
        judge::{ERROR_RATE, Grounds},
        spread::Spread,
    },
};

/// Paths of a sweep that does not say how many.
const PATHS: u16 = 16;

impl Probe {
    /// Runs a sweep.
    pub(super) fn execute_sweep(&self, netns: Option<&String>) -> anyhow::Result<ExitCode> {
        enter(netns)?;
        let signals = BlockedSignals::new().context("cannot wait for signals")?;
        let plan = self.sweep_plan()?;
        let target = plan.target;
        let paths = self.paths.unwrap_or(PATHS);
        let spread = Spread::read(target);
        let mut sweep = Sweep::open(&plan, paths, self.source_port).with_context(|| {
            let from = self.from.as_deref().unwrap_or("this machine");
            format!(
                "cannot open {paths} sockets from {from} to {target}: -I takes an interface (`ip \
                 link`) or an address of this machine, --source-port the first of {paths} free \
                 ports; each path takes up to three descriptors (`ulimit -n`)"
            )
        })?;
        let mut out = io::stdout();
        if self.format == Format::Text {
            begin(&mut out, &plan, sweep.flows())?;
        }
        sweep.run(&signals)?;
        let judged = sweep.judge();
        match self.format {
            Format::Text => text(&mut out, target, sweep.flows(), &judged, spread)?,
            Format::Json => json_lines(&mut out, target, sweep.flows(), &judged, spread)?,
        }
        let answered = |flow: &Flow| flow.session.received + flow.session.late > 0;
        Ok(if sweep.flows().iter().any(answered) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn sweep_plan(&self) -> anyhow::Result<Plan> {
        if self.train.is_some() {
            bail!(
                "a sweep sends single probes, so that what happens for a moment hits all paths \
                 alike: leave out --train, or use --protocol stamp"
            );
        }
        if self.ecn != 0 {
            bail!("a sweep does not show ECN: leave out --ecn, or use --protocol stamp");
        }
        let plan = self.plan()?;
        Ok(Plan {
            train: Train::SINGLE,
            ..plan
        })
    }

    /// Refuses the options of a sweep beside another protocol, which would ignore them.
    pub(super) fn refuse_sweep_options(&self) -> anyhow::Result<()> {
        if self.paths.is_some() || self.source_port.is_some() {
            bail!("--paths and --source-port are of a sweep: add --protocol udp-sweep");
        }
        Ok(())
    }
}

fn begin(out: &mut impl Write, plan: &Plan, flows: &[Flow]) -> io::Result<()> {
    let interval = u64::try_from(plan.interval.as_nanos()).unwrap_or(u64::MAX);
    writeln!(
        out,
        "STAMP to {} by {} source ports: {} bytes, each every {}",
        plan.target,
        flows.len(),
        plan.length(),
        time(interval)
    )?;
    out.flush()
}

/// What all paths have together.
#[derive(Default)]
struct Sum {
    sent: u64,
    received: u64,
    lost: u64,
    late: u64,
    unreachable: u64,
    duplicates: u64,
    void: u64,
    foreign: u64,
}

impl Sum {
    fn of(flows: &[Flow]) -> Self {
        flows.iter().fold(Self::default(), |sum, flow| {
            let session = &flow.session;
            Self {
                sent: sum.sent + session.sent,
                received: sum.received + session.received,
                lost: sum.lost + flow.lost(),
                late: sum.late + session.late,
                unreachable: sum.unreachable + session.unreachable,
                duplicates: sum.duplicates + session.duplicates,
                void: sum.void + session.clock + session.impossible,
                foreign: sum.foreign + flow.foreign(),
            }
        })
    }
}

/// The ports of bad paths, in ascending order.
fn bad(flows: &[Flow], judged: &Judged) -> Vec<u16> {
    let verdicts = judged.paths.iter().map(|(_, grounds)| grounds);
    let bad = flows
        .iter()
        .zip(verdicts)
        .filter(|(_, grounds)| grounds.is_bad());
    bad.map(|(flow, _)| flow.port).collect()
}

fn show(nanoseconds: Option<i64>) -> String {
    maybe(nanoseconds.and_then(|nanoseconds| u64::try_from(nanoseconds).ok()))
}

/// A path's line in the table.
fn cells(flow: &Flow, delays: Option<&Distribution>, grounds: &Grounds) -> [String; 9] {
    let session = &flow.session;
    let of = |figure: fn(&Distribution) -> Option<i64>| show(delays.and_then(figure));
    let label = flow
        .label
        .map_or_else(|| "-".to_owned(), |label| format!("{label:#07x}"));
    let why = match (grounds.loss, grounds.delay) {
        (Some(_), Some(_)) => "bad: loss, delay",
        (Some(_), None) => "bad: loss",
        (None, Some(_)) => "bad: delay",
        (None, None) => "",
    };
    [
        flow.port.to_string(),
        label,
        session.sent.to_string(),
        (flow.lost() + session.unreachable).to_string(),
        session.late.to_string(),
        of(Distribution::min),
        of(|delays| delays.percentile(50)),
        of(Distribution::max),
        why.to_owned(),
    ]
}

fn text(
    out: &mut impl Write,
    target: SocketAddr,
    flows: &[Flow],
    judged: &Judged,
    spread: Spread,
) -> io::Result<()> {
    let head = [
        "port", "label", "sent", "lost", "late", "rtt min", "p50", "max", "",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    for (flow, (figures, grounds)) in flows.iter().zip(&judged.paths) {
        let delays = figures.as_ref().map(|figures| &figures.round_trips);
        rows.push(cells(flow, delays, grounds));
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..head.len())
        .map(|column| width(column).unwrap_or_default())
        .collect();
    for row in &rows {
        let is_last = |column| column + 1 == head.len();
        let cells = row.iter().zip(&widths).enumerate();
        let cells: Vec<String> = cells
            .map(|(column, (cell, width))| padded(cell, *width, !is_last(column)))
            .collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    writeln!(out, "\n--- {target} ---")?;
    let sum = Sum::of(flows);
    write!(
        out,
        "{} sent, {} received, {} lost",
        sum.sent, sum.received, sum.lost
    )?;
    for (count, what) in [
        (sum.late, "late"),
        (sum.duplicates, "duplicate"),
        (sum.unreachable, "unreachable"),
        (sum.void, "void (a clock was set, or impossible times)"),
        (sum.foreign, "answers of others"),
    ] {
        if count > 0 {
            write!(out, ", {count} {what}")?;
        }
    }
    writeln!(out)?;
    let bad = bad(flows, judged);
    write!(out, "{} of {} paths bad", bad.len(), flows.len())?;
    if !bad.is_empty() {
        let ports: Vec<String> = bad.iter().map(u16::to_string).collect();
        write!(out, ": source ports {}", ports.join(", "))?;
    }
    writeln!(out)?;
    writeln!(out, "{}", words(spread, flows.len()))?;
    row(out, "rtt", &judged.round_trips)
}

/// Says how many ways the probes can have taken from this host.
fn words(spread: Spread, flows: usize) -> String {
    let policy = match spread.policy {
        Some(policy) => format!("hash policy {policy}"),
        None => return "this host does not tell by what it chooses among next hops".to_owned(),
    };
    match (spread.ports, spread.labels) {
        (Some(true), Some(true)) => format!(
            "this host's {policy} counts ports and flow labels: up to {flows} of its next hops"
        ),
        (Some(true), _) => {
            format!("this host's {policy} counts source ports: up to {flows} of its next hops")
        }
        (_, Some(true)) => {
            format!("this host's {policy} counts flow labels: up to {flows} of its next hops")
        }
        (Some(false), Some(false)) => format!(
            "this host's {policy} counts neither: one of its next hops for all; routers beyond \
             may choose by more"
        ),
        _ => format!("this host's {policy} does not tell what it counts"),
    }
}

fn json_lines(
    out: &mut impl Write,
    target: SocketAddr,
    flows: &[Flow],
    judged: &Judged,
    spread: Spread,
) -> io::Result<()> {
    for (flow, (figures, grounds)) in flows.iter().zip(&judged.paths) {
        let delays = figures.as_ref().map(|figures| &figures.round_trips);
        writeln!(out, "{}", path(flow, delays, grounds))?;
    }
    writeln!(out, "{}", summary(target, flows, judged, spread))?;
    out.flush()
}

/// The record of a path. What is unknown is left out.
fn path(flow: &Flow, delays: Option<&Distribution>, grounds: &Grounds) -> Value {
    let session = &flow.session;
    let mut record = json!({
        "schema": records::SCHEMA,
        "type": "path",
        "source_port": flow.port,
        "sent": session.sent,
        "received": session.received,
        "lost": flow.lost(),
        "late": session.late,
        "unreachable": session.unreachable,
        "duplicates": session.duplicates,
        "bad": grounds.is_bad(),
    });
    if let Some(label) = flow.label {
        record["flow_label"] = label.into();
    }
    if session.counts() {
        let losses = session.losses();
        record["lost_forward"] = losses.forward.into();
        record["lost_backward"] = losses.backward.into();
    }
    if let Some(delays) = delays.and_then(records::distribution) {
        record["rtt_ns"] = delays;
    }
    for (what, chance) in [("loss", grounds.loss), ("delay", grounds.delay)] {
        if let Some(chance) = chance {
            record["grounds"][what] = chance.into();
        }
    }
    record
}

fn summary(target: SocketAddr, flows: &[Flow], judged: &Judged, spread: Spread) -> Value {
    let sum = Sum::of(flows);
    let bad = bad(flows, judged);
    let labels = flows.iter().filter(|flow| flow.label.is_some()).count();
    let mut paths = json!({
        "probed": flows.len(),
        "bad": bad.len(),
        "bad_source_ports": bad,
        "error_rate": ERROR_RATE,
        "source_ports": flows.len(),
        "flow_labels": labels,
    });
    if let Some(policy) = spread.policy {
        paths["hash_policy"] = policy.into();
    }
    if let Some(most) = spread.most(flows.len()) {
        paths["most_from_here"] = most.into();
    }
    let mut record = json!({
        "schema": records::SCHEMA,
        "type": "summary",
        "target": target.to_string(),
        "protocol": "udp-sweep",
        "sent": sum.sent,
        "received": sum.received,
        "lost": sum.lost,
        "late": sum.late,
        "unreachable": sum.unreachable,
        "duplicates": sum.duplicates,
        "void": sum.void,
        "foreign": sum.foreign,
        "paths": paths,
    });
    if let Some(class) = judged.class {
        record["class"] = records::sources(class);
    }
    if let Some(delays) = records::distribution(&judged.round_trips) {
        record["rtt_ns"] = delays;
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_many_paths_is_said_as_far_as_it_is_known() {
        let of = |is_v6, policy, fields| words(Spread::of(is_v6, policy, fields), 16);
        for (said, part) in [
            (of(false, Some(0), None), "policy 0 counts neither: one"),
            (
                of(false, Some(1), None),
                "policy 1 counts source ports: up to 16",
            ),
            (
                of(true, Some(0), None),
                "policy 0 counts flow labels: up to 16",
            ),
            (
                of(true, Some(1), None),
                "policy 1 counts source ports: up to 16",
            ),
            (
                of(true, Some(3), Some(0x18)),
                "counts ports and flow labels",
            ),
            (of(true, Some(3), None), "does not tell what it counts"),
            (of(true, None, None), "does not tell"),
        ] {
            assert!(said.contains(part), "{said}");
        }
    }
}
