//! The tables: medians with their quartiles, and ratios round by round.

use std::{fmt::Write as _, path::Path};

use anyhow::{Context, Result};

use super::{Args, Traffic, live::Series, tunnels_xdp::Case};

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
            args.rounds,
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
        self.line("The mean of a packet and its answer, which are run one at a time.\n");
        self.cases("method on", cases);
    }

    pub(super) fn layers(&mut self, cases: &[Case]) {
        self.line("## Hot: tunnels and XDP, each with and without being configured\n");
        self.cases("tunnels and XDP configured", cases);
    }

    pub(super) fn questions(&mut self, cases: &[Case]) {
        self.line("## Hot: pings and DNS, each with and without its method\n");
        self.line("Of a pair the mean of question and answer, which are run one at a time.\n");
        self.cases("`icmp` and `dns` on", cases);
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

fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release
        .trim()
        .split('-')
        .next()
        .unwrap_or_default()
        .to_owned()
}
