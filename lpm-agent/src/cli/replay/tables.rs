//! The table of flows at the end of a replay, and the columns that it shares with the table of
//! distributions.

use std::{
    io::{self, Write},
    net::IpAddr,
};

use lpm_common::layout::Vantage;
use serde::Serialize;

use super::{super::show, Format, output::plain};
use crate::{
    api::{
        json::{Both, End},
        sample::{SCHEMA, vlan},
        tunnel::{TunnelRecord, place},
    },
    identity::PrefixMap,
    replay::{
        Anonymizer, Flows, Interfaces,
        flows::{FlowId, FlowTotals},
        sparse_histogram::{Class, SparseHistogram},
    },
};

/// Percentiles in the tables.
const PERCENTILES: [u64; 3] = [50, 90, 99];

/// One flow of the summary.
#[derive(Serialize)]
struct FlowLine {
    schema: u32,
    kind: &'static str,
    interface: String,
    vantage: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    vlan: Option<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tunnels: Vec<TunnelRecord>,
    local: End,
    remote: End,
    packets: Both,
    bytes: Both,
    parts: u64,
    opened: bool,
    closed: bool,
    rtt: Vec<TimesLine>,
}

/// Round trips of one method, leg and echo.
#[derive(Clone, Serialize)]
pub(super) struct TimesLine {
    method: &'static str,
    leg: &'static str,
    echo: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rcode: Option<&'static str>,
    count: u64,
    min_ns: u64,
    mean_ns: u64,
    p50_ns: u64,
    p90_ns: u64,
    p99_ns: u64,
    max_ns: u64,
}

impl TimesLine {
    pub(super) fn new(class: Class, times: &SparseHistogram) -> Self {
        let [p50_ns, p90_ns, p99_ns] = PERCENTILES.map(|p| times.percentile_ns(p));
        Self {
            method: class.method(),
            leg: class.leg(),
            echo: class.echo(),
            rcode: class.rcode(),
            count: times.count(),
            min_ns: times.min_ns(),
            mean_ns: times.mean_ns(),
            p50_ns,
            p90_ns,
            p99_ns,
            max_ns: times.max_ns(),
        }
    }

    /// Cells of the table's row, from the method on.
    pub(super) fn cells(&self) -> Vec<String> {
        let words = [self.method, self.leg, self.rcode.unwrap_or(self.echo)].map(str::to_owned);
        let times = [
            self.min_ns,
            self.mean_ns,
            self.p50_ns,
            self.p90_ns,
            self.p99_ns,
            self.max_ns,
        ];
        words
            .into_iter()
            .chain([self.count.to_string()])
            .chain(times.map(show::time))
            .collect()
    }
}

/// Headings of [`TimesLine::cells`]. True: aligned to the right.
pub(super) const TIMES: [(&str, bool); 10] = [
    ("METHOD", false),
    ("LEG", false),
    ("ECHO", false),
    ("SAMPLES", true),
    ("MIN", true),
    ("MEAN", true),
    ("P50", true),
    ("P90", true),
    ("P99", true),
    ("MAX", true),
];

const FLOW_COLUMNS: [&str; 27] = [
    "schema",
    "interface",
    "vantage",
    "vlan",
    "local",
    "local_port",
    "remote",
    "remote_port",
    "packets_from_local",
    "packets_to_local",
    "bytes_from_local",
    "bytes_to_local",
    "parts",
    "opened",
    "closed",
    "method",
    "leg",
    "echo",
    "count",
    "min_ns",
    "mean_ns",
    "p50_ns",
    "p90_ns",
    "p99_ns",
    "max_ns",
    "tunnels",
    "rcode",
];

/// Tunnels as a cell of CSV, outermost first: `vxlan:3/geneve:7`.
pub(super) fn tunnels(tunnels: &[TunnelRecord]) -> String {
    place("", tunnels).trim_start_matches('/').to_owned()
}

/// Writes the summary of each flow.
pub(super) fn flows(
    out: &mut impl Write,
    format: Format,
    flows: &Flows,
    places: &Interfaces,
    names: &PrefixMap,
    mut anonymizer: Option<&mut Anonymizer>,
) -> io::Result<()> {
    let sorted = flows.sorted();
    let lines = sorted
        .into_iter()
        .map(|(id, totals)| flow_line(id, totals, places, names, anonymizer.as_deref_mut()));
    match format {
        Format::Json => {
            for line in lines {
                serde_json::to_writer(&mut *out, &line)?;
                writeln!(out)?;
            }
            Ok(())
        }
        Format::Csv => {
            let mut csv = csv::Writer::from_writer(out);
            csv.write_record(FLOW_COLUMNS).map_err(plain)?;
            for line in lines {
                flow_rows(&mut csv, &line)?;
            }
            csv.flush()
        }
        Format::Text | Format::Ppviz => flow_table(out, lines),
    }
}

fn flow_line(
    id: &FlowId,
    totals: &FlowTotals,
    places: &Interfaces,
    names: &PrefixMap,
    mut anonymizer: Option<&mut Anonymizer>,
) -> FlowLine {
    let spot = places.all().get(id.place);
    let mut end = |(address, port): (IpAddr, u16)| End {
        name: names.lookup(address).map(|name| (**name).clone()),
        address: match &mut anonymizer {
            Some(anonymizer) => anonymizer.address(address),
            None => address,
        },
        port,
        zone: None,
        holder: None,
    };
    let [from, to] = totals.traffic;
    let times = totals.times.iter();
    FlowLine {
        schema: SCHEMA,
        kind: "flow",
        interface: spot.map(|spot| spot.name.clone()).unwrap_or_default(),
        vantage: spot
            .and_then(|spot| spot.vantage)
            .map_or("unknown", Vantage::as_str),
        vlan: vlan(id.segment),
        tunnels: TunnelRecord::all(id.segment, id.outer_vni),
        local: end(id.local),
        remote: end(id.remote),
        packets: Both {
            from_local: from.packets,
            to_local: to.packets,
        },
        bytes: Both {
            from_local: from.bytes,
            to_local: to.bytes,
        },
        parts: totals.parts,
        opened: totals.opened,
        closed: totals.closed,
        rtt: times
            .map(|(class, times)| TimesLine::new(class, times))
            .collect(),
    }
}

/// Writes a row for each kind of round trip of a flow. A flow without round trips has one row.
fn flow_rows<W: Write>(csv: &mut csv::Writer<W>, line: &FlowLine) -> io::Result<()> {
    let flow = [
        line.schema.to_string(),
        line.interface.clone(),
        line.vantage.to_owned(),
        line.vlan.map(|vlan| vlan.to_string()).unwrap_or_default(),
        line.local.address.to_string(),
        line.local.port.to_string(),
        line.remote.address.to_string(),
        line.remote.port.to_string(),
        line.packets.from_local.to_string(),
        line.packets.to_local.to_string(),
        line.bytes.from_local.to_string(),
        line.bytes.to_local.to_string(),
        line.parts.to_string(),
        line.opened.to_string(),
        line.closed.to_string(),
    ];
    let tunnels = tunnels(&line.tunnels);
    let mut row = |times: [String; 12]| csv.write_record(flow.iter().chain(&times)).map_err(plain);
    if line.rtt.is_empty() {
        let mut none: [String; 12] = Default::default();
        none[10].clone_from(&tunnels);
        row(none)?;
    }
    for times in &line.rtt {
        row([
            times.method.to_owned(),
            times.leg.to_owned(),
            times.echo.to_owned(),
            times.count.to_string(),
            times.min_ns.to_string(),
            times.mean_ns.to_string(),
            times.p50_ns.to_string(),
            times.p90_ns.to_string(),
            times.p99_ns.to_string(),
            times.max_ns.to_string(),
            tunnels.clone(),
            times.rcode.unwrap_or_default().to_owned(),
        ])?;
    }
    Ok(())
}

fn flow_table(out: &mut impl Write, lines: impl Iterator<Item = FlowLine>) -> io::Result<()> {
    let mut headings = vec![
        ("LOCAL", false),
        ("REMOTE", false),
        ("IFACE", false),
        ("PACKETS", true),
        ("BYTES", true),
    ];
    headings.extend(TIMES);
    let mut rows = Vec::new();
    for line in lines {
        let bytes = line.bytes.total();
        #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
        let flow = [
            show::end(line.local.address, line.local.port),
            show::end(line.remote.address, line.remote.port),
            place(&line.interface, &line.tunnels),
            line.packets.total().to_string(),
            show::count(bytes as f64),
        ];
        let with = |times: Vec<String>| flow.iter().cloned().chain(times).collect::<Vec<_>>();
        if line.rtt.is_empty() {
            rows.push(with(vec!["-".to_owned(); TIMES.len()]));
        }
        rows.extend(line.rtt.iter().map(|times| with(times.cells())));
    }
    table(out, &headings, &rows)
}

/// Writes a table. Each column is as wide as its widest cell.
pub(super) fn table(
    out: &mut impl Write,
    headings: &[(&str, bool)],
    rows: &[Vec<String>],
) -> io::Result<()> {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([headings[column].0.len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for ((cell, width), (_, right)) in cells.zip(&widths).zip(headings) {
            text.extend([&show::padded(cell, *width, *right), "  "]);
        }
        writeln!(out, "{}", text.trim_end())
    };
    line(&mut headings.iter().map(|(heading, _)| *heading))?;
    for row in rows {
        line(&mut row.iter().map(String::as_str))?;
    }
    Ok(())
}
