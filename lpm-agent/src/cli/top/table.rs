//! The three tables of `lpm top`, independent of where they are drawn.

use std::cmp::Reverse;

use clap::ValueEnum;

use super::{
    super::show,
    snapshot::{Rated, Snapshot},
};
use crate::api::{json::End, tunnel::place};

/// Which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Tab {
    /// One line per active flow and vantage.
    Flows,
    /// One line per pair of namespaces, leg and echo.
    Namespaces,
    /// One line per interface.
    Links,
}

/// What flows are sorted by, the largest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Sort {
    /// Packets per second, then packets.
    Packets,
    /// Bits per second, then bytes.
    Bytes,
    /// Smoothed round trip of the remote leg.
    Rtt,
    /// Address of the local end, ascending.
    Address,
}

impl Sort {
    /// The next order of sorting, in a circle.
    pub(super) fn next(self) -> Self {
        let all = Self::value_variants();
        let at = all.iter().position(|sort| *sort == self).unwrap_or(0);
        all[(at + 1) % all.len()]
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Packets => "packets",
            Self::Bytes => "bytes",
            Self::Rtt => "round trip",
            Self::Address => "address",
        }
    }
}

/// A heading and whether its column is aligned to the right.
pub(super) type Heading = (&'static str, bool);

/// A table, ready to be drawn.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) headings: Vec<Heading>,
    pub(super) rows: Vec<Vec<String>>,
}

const FLOWS: [Heading; 11] = [
    ("LOCAL", false),
    ("REMOTE", false),
    ("IFACE", false),
    ("VANTAGE", false),
    ("RTT", true),
    ("MIN", true),
    ("LAST", true),
    ("LOCAL RTT", true),
    ("PKT/S", true),
    ("BIT/S", true),
    ("WHO", false),
];

const NAMESPACES: [Heading; 10] = [
    ("NAMESPACE", false),
    ("PEER", false),
    ("KIND", false),
    ("LEG", false),
    ("ECHO", false),
    ("SAMPLES", true),
    ("MEAN", true),
    ("P50", true),
    ("P90", true),
    ("P99", true),
];

const LINKS: [Heading; 8] = [
    ("IFACE", false),
    ("VANTAGE", false),
    ("MODE", false),
    ("FLOWS", true),
    ("PACKETS", true),
    ("BYTES", true),
    ("MIN RTT", true),
    ("MIN LOCAL", true),
];

/// Makes a table from a snapshot.
pub(super) fn table(snapshot: &Snapshot, tab: Tab, sort: Sort) -> Table {
    let (headings, mut rows) = match tab {
        Tab::Flows => (FLOWS.to_vec(), flows(&snapshot.flows, sort)),
        Tab::Namespaces => (NAMESPACES.to_vec(), namespaces(snapshot)),
        Tab::Links => (LINKS.to_vec(), links(snapshot)),
    };
    for cell in rows.iter_mut().flatten() {
        *cell = show::cell(cell);
    }
    Table { headings, rows }
}

fn flows(flows: &[Rated], sort: Sort) -> Vec<Vec<String>> {
    let mut sorted: Vec<&Rated> = flows.iter().collect();
    let rate = |rate: Option<f64>| rate.unwrap_or(-1.0);
    match sort {
        Sort::Packets => sorted.sort_by(|a, b| {
            let rates = rate(b.packets_per_second).total_cmp(&rate(a.packets_per_second));
            rates.then(b.flow.packets.total().cmp(&a.flow.packets.total()))
        }),
        Sort::Bytes => sorted.sort_by(|a, b| {
            let rates = rate(b.bits_per_second).total_cmp(&rate(a.bits_per_second));
            rates.then(b.flow.bytes.total().cmp(&a.flow.bytes.total()))
        }),
        Sort::Rtt => sorted.sort_by_key(|rated| Reverse(rated.flow.rtt_ns.remote.smoothed)),
        Sort::Address => sorted.sort_by_key(|rated| {
            let flow = &rated.flow;
            (
                flow.local.address,
                flow.local.port,
                flow.remote.address,
                flow.remote.port,
            )
        }),
    }
    sorted.into_iter().map(flow_row).collect()
}

fn flow_row(rated: &Rated) -> Vec<String> {
    let flow = &rated.flow;
    let rate = |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), show::count);
    vec![
        end(&flow.local),
        end(&flow.remote),
        place(&flow.interface, &flow.tunnels),
        flow.vantage.clone(),
        show::maybe(flow.rtt_ns.remote.smoothed),
        show::maybe(flow.rtt_ns.remote.min),
        show::maybe(flow.rtt_ns.remote.last),
        show::maybe(flow.rtt_ns.local.smoothed),
        rate(rated.packets_per_second),
        rate(rated.bits_per_second),
        who(&flow.local, &flow.remote),
    ]
}

fn end(end: &End) -> String {
    show::end(end.address, end.port)
}

/// Names of both ends. An end without a name is shown by the process that holds it.
fn who(local: &End, remote: &End) -> String {
    let one = |end: &End| {
        let name = end
            .name
            .as_ref()
            .map(show::who)
            .filter(|who| !who.is_empty());
        let holder = end.holder.as_ref();
        let process = holder.and_then(|holder| {
            let place = holder.container.as_ref().or(holder.netns.as_ref());
            match (&holder.process, place) {
                (Some(process), Some(place)) => Some(format!("{process}@{place}")),
                (process, place) => process.clone().or_else(|| place.cloned()),
            }
        });
        match (name, process) {
            (Some(name), Some(process)) => format!("{name} [{process}]"),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => "?".to_owned(),
        }
    };
    let (local, remote) = (one(local), one(remote));
    if local == "?" && remote == "?" {
        String::new()
    } else {
        format!("{local} > {remote}")
    }
}

fn namespaces(snapshot: &Snapshot) -> Vec<Vec<String>> {
    snapshot
        .latency
        .iter()
        .map(|row| {
            let or_none = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
            // DNS tells answers apart by their response code, not by the server.
            let peer = row.rcode.as_ref().unwrap_or(&row.peer_namespace);
            vec![
                row.namespace.clone(),
                or_none(peer),
                or_none(&row.peer_kind),
                row.leg.clone(),
                row.method.as_ref().unwrap_or(&row.echo).clone(),
                row.count.to_string(),
                show::time(row.mean_ns),
                show::time(row.p50_ns),
                show::time(row.p90_ns),
                show::time(row.p99_ns),
            ]
        })
        .collect()
}

fn links(snapshot: &Snapshot) -> Vec<Vec<String>> {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let count = |count: u64| show::count(count as f64);
    snapshot
        .links
        .iter()
        .map(|link| {
            vec![
                link.interface.clone(),
                link.vantage.clone(),
                link.mode.clone(),
                link.flows.to_string(),
                count(link.packets.total()),
                count(link.bytes.total()),
                show::maybe(link.rtt_min_ns.remote),
                show::maybe(link.rtt_min_ns.local),
            ]
        })
        .collect()
}

impl Table {
    /// Width of each column.
    pub(super) fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self
            .headings
            .iter()
            .map(|(heading, _)| heading.len())
            .collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        widths
    }

    /// The table as lines of text.
    pub(super) fn to_text(&self) -> String {
        let widths = self.widths();
        let headings: Vec<String> = self
            .headings
            .iter()
            .map(|(heading, _)| (*heading).to_owned())
            .collect();
        let mut text = String::new();
        for row in std::iter::once(&headings).chain(&self.rows) {
            let cells = row.iter().zip(&self.headings).zip(&widths);
            let line: Vec<String> = cells
                .map(|((cell, (_, right)), width)| show::padded(cell, *width, *right))
                .collect();
            text.push_str(line.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let table = Table {
            headings: vec![("A", false), ("RTT", true)],
            rows: vec![
                vec!["long".into(), "1us".into()],
                vec!["x".into(), "10.0ms".into()],
            ],
        };
        assert_eq!(
            table.to_text(),
            "A        RTT\nlong     1us\nx     10.0ms\n"
        );
    }

    #[test]
    fn sort_keys_go_round() {
        let mut sort = Sort::Packets;
        for _ in Sort::value_variants() {
            sort = sort.next();
        }
        assert_eq!(sort, Sort::Packets);
    }
}
