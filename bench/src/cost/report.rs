//! The tables: medians with their quartiles, and ratios round by round.

use std::{fmt::Write as _, path::Path};

use anyhow::{Context, Result};

use super::{
    Args, Traffic,
    beside::{Interval, Row},
    live::Series,
    tunnels_xdp::Case,
};

/// Collects the tables, and prints each as soon as it is there.
pub(super) struct Report {
    text: String,
}

impl Report {
    pub(super) fn new(args: &Args) -> Self {
        let mut report = Self {
            text: String::new(),
        };
        report.line("# Cost per packet\n");
        report.line(&format!(
            "Kernel {}, {} CPUs. Nanoseconds per packet by the kernel's run statistics at the \
             node's end of a pod's veth, median (quartiles) of {} rounds; in each round every \
             program has its turn. \"From pod\" is the ingress hook, \"to pod\" the egress hook. \
             Net is gross less the empty program of the same round; the ratio is net against the \
             minimal program's net, round by round.\n",
            kernel(),
            std::thread::available_parallelism().map_or(0, usize::from),
            args.rounds(),
        ));
        report
    }

    fn line(&mut self, line: &str) {
        println!("{line}");
        self.text.push_str(line);
        self.text.push('\n');
    }

    pub(super) fn hot(&mut self, series: &[Series]) {
        self.line("## Hot: BPF_PROG_TEST_RUN, a packet of a known flow, nothing new in it\n");
        self.table(series);
    }

    pub(super) fn methods(&mut self, cases: &[Case]) {
        self.line("## Hot: samples by method, each with and without it\n");
        self.line("The mean of a packet and its answer, a new pair each time.\n");
        self.cases("method on", cases);
    }

    pub(super) fn layers(&mut self, cases: &[Case]) {
        self.line("## Hot: tunnels and XDP, each with and without being configured\n");
        self.cases("tunnels and XDP configured", cases);
    }

    pub(super) fn questions(&mut self, cases: &[Case]) {
        self.line("## Hot: pings and DNS, each with and without its method\n");
        self.line("Of a pair the mean of question and answer, a new pair each time.\n");
        self.cases("`icmp` and `dns` on", cases);
    }

    pub(super) fn beside(&mut self, title: &str, limit: f64, rows: &[Row]) {
        self.line(&format!("## {title}: this object beside the other\n"));
        self.line(&format!(
            "Median (95 % interval) over the rounds. \"Not resolved\": {limit} lies within the \
             interval of the net ratio, so the machine was too noisy, or the rounds too few, to \
             tell.\n"
        ));
        self.line(&format!(
            "| packets | net ns | the other's | net ratio | gross ratio | at most {limit} |"
        ));
        self.line("|---|---|---|---|---|---|");
        for row in rows {
            let ratio = row.net_ratio();
            let verdict = ratio.map_or("not resolved", |ratio| ratio.verdict(limit));
            self.line(&format!(
                "| {} | {} | {} | {} | {} | {verdict} |",
                row.name,
                interval(row.net(0), 1),
                interval(row.net(1), 1),
                interval(ratio, 3),
                interval(row.gross_ratio(), 3),
            ));
        }
        self.line("");
    }

    fn cases(&mut self, configured: &str, cases: &[Case]) {
        self.line(&format!(
            "| packet | program or method | {configured} | gross ns | net ns |"
        ));
        self.line("|---|---|---|---|---|");
        for case in cases {
            let pairs = case.gross.iter().zip(&case.empty);
            let net: Vec<f64> = pairs.map(|(gross, empty)| gross - empty).collect();
            self.line(&format!(
                "| {} | {} | {} | {} | {} |",
                case.packet,
                case.program,
                if case.configured { "yes" } else { "no" },
                quartiles(&case.gross, 1),
                quartiles(&net, 1),
            ));
        }
        self.line("");
    }

    pub(super) fn live(&mut self, flows: usize, traffic: Traffic, series: &[Series]) {
        let traffic = match traffic {
            Traffic::Requests => "requests and answers",
            Traffic::Streams => "bulk streams",
        };
        let packets: u64 = series.iter().flat_map(|series| series.packets).sum();
        self.line(&format!(
            "## Live: {flows} flows, {traffic} ({packets} packets measured)\n"
        ));
        self.table(series);
    }

    fn table(&mut self, series: &[Series]) {
        self.line("| program | direction | gross ns | net ns | net / minimal's net |");
        self.line("|---|---|---|---|---|");
        for entry in series {
            for (direction, name) in ["from pod", "to pod"].into_iter().enumerate() {
                let gross = &entry.gross[direction];
                let against = |name: &str| {
                    let other = series.iter().find(|series| series.name == name);
                    other.map_or(&[][..], |series| &series.gross[direction][..])
                };
                let (empty, minimal) = (against("empty"), against("minimal"));
                let net: Vec<f64> = gross.iter().zip(empty).map(|(a, b)| a - b).collect();
                let base: Vec<f64> = minimal.iter().zip(empty).map(|(a, b)| a - b).collect();
                let ratio: Vec<f64> = net.iter().zip(&base).map(|(a, b)| a / b).collect();
                self.line(&format!(
                    "| {} | {name} | {} | {} | {} |",
                    entry.name,
                    quartiles(gross, 1),
                    quartiles(&net, 1),
                    quartiles(&ratio, 2),
                ));
            }
        }
        self.line("");
    }

    pub(super) fn finish(self, output: Option<&Path>) -> Result<()> {
        if let Some(path) = output {
            std::fs::write(path, self.text).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }
}

/// Median and quartiles, as text.
fn quartiles(values: &[f64], digits: usize) -> String {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let at = |share: usize| values.get(values.len().saturating_sub(1) * share / 4);
    let mut text = String::new();
    if let (Some(low), Some(median), Some(high)) = (at(1), at(2), at(3)) {
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "{median:.digits$} ({low:.digits$} to {high:.digits$})"
        );
    }
    text
}

/// Median and 95 % interval, as text.
fn interval(of: Option<Interval>, digits: usize) -> String {
    of.map_or_else(String::new, |Interval { median, low, high }| {
        format!("{median:.digits$} ({low:.digits$} to {high:.digits$})")
    })
}

fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release
        .trim()
        .split('-')
        .next()
        .unwrap_or_default()
        .to_owned()
}
