//! Output of a replay: round trips as lines on stdout when they are found, tables at the end.

use std::io::{self, BufWriter, Stdout, Write as _};

use lpm_common::layout::Sample;
use serde::Serialize;

use super::{super::watch, Format, histograms, tables};
use crate::{
    api::sample::{SCHEMA, SampleRecord},
    identity::{PrefixMap, Resolver},
    passive::{Clock, Flow},
    replay::{Anonymizer, ByClass, Flows, Interfaces, Sink, sparse_histogram::Class},
};

/// One round trip as a line of CSV. New columns are only added at the end. Any other change is a
/// new schema.
#[derive(Serialize)]
struct Row<'a> {
    schema: u32,
    time: &'a str,
    interface: &'a str,
    vantage: &'a str,
    vlan: Option<u16>,
    src: std::net::IpAddr,
    sport: u16,
    dst: std::net::IpAddr,
    dport: u16,
    rtt_ns: u64,
    leg: &'a str,
    echo: &'a str,
    method: &'a str,
    id: u32,
    tunnels: String,
    rcode: Option<&'static str>,
}

/// Receives the round trips and flows of a replay.
pub(super) struct Output {
    lines: Option<Lines>,
    format: Format,
    /// The flows, if their summary was asked for.
    flows: Option<Flows>,
    histograms: bool,
    /// All round trips by method, leg and echo.
    pub(super) times: ByClass,
    anonymizer: Option<Anonymizer>,
    names: PrefixMap,
    whose: Resolver,
}

/// Writer of the lines of round trips, by format.
enum Lines {
    Text(BufWriter<Stdout>),
    Json(BufWriter<Stdout>),
    Ppviz(BufWriter<Stdout>),
    Csv(Box<csv::Writer<Stdout>>),
}

/// The summaries that are written in place of a line for each round trip.
#[derive(Clone, Copy, Debug)]
pub(super) struct Summaries {
    /// One of each flow.
    pub(super) flows: bool,
    /// Histograms of all round trips.
    pub(super) histograms: bool,
}

impl Output {
    pub(super) fn new(
        format: Format,
        summaries: Summaries,
        anonymizer: Option<Anonymizer>,
        names: PrefixMap,
    ) -> io::Result<Self> {
        let Summaries { flows, histograms } = summaries;
        let lines = if flows || histograms {
            None
        } else {
            Some(Lines::new(format)?)
        };
        Ok(Self {
            lines,
            format,
            flows: flows.then(Flows::default),
            histograms,
            times: ByClass::default(),
            anonymizer,
            whose: names.clone().into(),
            names,
        })
    }

    /// Writes the tables, and all lines that wait.
    pub(super) fn finish(&mut self, places: &Interfaces) -> io::Result<()> {
        if let Some(lines) = &mut self.lines {
            return lines.flush();
        }
        let mut out = BufWriter::new(io::stdout());
        if let Some(flows) = &self.flows {
            let anonymizer = self.anonymizer.as_mut();
            let names = &self.names;
            tables::flows(&mut out, self.format, flows, places, names, anonymizer)?;
        }
        if self.histograms {
            if self.flows.is_some() && self.format == Format::Text {
                writeln!(out)?;
            }
            histograms::histograms(&mut out, self.format, &self.times)?;
        }
        out.flush()
    }

    /// Writes the lines that wait.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.lines.as_mut().map_or(Ok(()), Lines::flush)
    }

    /// Number of parts of flows that the summary left out.
    pub(super) fn left_out(&self) -> u64 {
        self.flows.as_ref().map_or(0, |flows| flows.left_out)
    }
}

impl Sink for Output {
    fn sample(&mut self, sample: &Sample, interface: &str) -> io::Result<()> {
        self.times.observe(sample);
        if let Some(flows) = &mut self.flows {
            flows.sample(sample);
        }
        let Some(lines) = &mut self.lines else {
            return Ok(());
        };
        let clock = Clock::of_capture();
        let mut record = SampleRecord::new(sample, &clock, Some(interface), &self.whose);
        if let Some(anonymizer) = &mut self.anonymizer {
            record.src = anonymizer.address(record.src);
            record.dst = anonymizer.address(record.dst);
        }
        lines.write(&record, Class::of(sample))
    }

    fn flow(&mut self, flow: &Flow) {
        if let Some(flows) = &mut self.flows {
            flows.ended(flow);
        }
    }

    fn carry(&mut self, flow: &Flow) -> Option<[u64; 2]> {
        self.flows.as_mut()?.carry(flow)
    }

    fn warning(&mut self, text: &str) {
        // Without stderr there is nobody to tell.
        let _ = writeln!(io::stderr(), "lpm: {text}");
    }
}

impl Lines {
    fn new(format: Format) -> io::Result<Self> {
        const BUFFER: usize = 64 << 10;
        let out = || BufWriter::with_capacity(BUFFER, io::stdout());
        Ok(match format {
            Format::Text => Self::Text(out()),
            Format::Json => Self::Json(out()),
            Format::Ppviz => Self::Ppviz(out()),
            Format::Csv => {
                // The header is written by hand, so that it is there without a round trip, too.
                let mut builder = csv::WriterBuilder::new();
                let builder = builder.has_headers(false).buffer_capacity(BUFFER);
                let mut csv = builder.from_writer(io::stdout());
                csv.write_record(HEADER).map_err(plain)?;
                Self::Csv(Box::new(csv))
            }
        })
    }

    fn write(&mut self, record: &SampleRecord, class: Class) -> io::Result<()> {
        match self {
            Self::Text(out) => writeln!(out, "{}", watch::text(record)),
            Self::Ppviz(out) => writeln!(out, "{}", watch::ppviz(record)),
            Self::Json(out) => {
                serde_json::to_writer(&mut *out, record)?;
                writeln!(out)
            }
            Self::Csv(csv) => csv.serialize(Row::of(record, class)).map_err(plain),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Text(out) | Self::Json(out) | Self::Ppviz(out) => out.flush(),
            Self::Csv(csv) => csv.flush(),
        }
    }
}

/// The system's error within a CSV error, so that a closed pipe is recognised.
pub(super) fn plain(error: csv::Error) -> io::Error {
    if !error.is_io_error() {
        return error.into();
    }
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

/// The columns of [`Row`].
const HEADER: [&str; 16] = [
    "schema",
    "time",
    "interface",
    "vantage",
    "vlan",
    "src",
    "sport",
    "dst",
    "dport",
    "rtt_ns",
    "leg",
    "echo",
    "method",
    "id",
    "tunnels",
    "rcode",
];

impl<'a> Row<'a> {
    fn of(record: &'a SampleRecord, class: Class) -> Self {
        Self {
            schema: SCHEMA,
            time: &record.time,
            interface: &record.interface,
            vantage: &record.vantage,
            vlan: record.vlan,
            src: record.src,
            sport: record.sport,
            dst: record.dst,
            dport: record.dport,
            rtt_ns: record.rtt_ns,
            leg: &record.leg,
            echo: class.echo(),
            method: &record.method,
            id: record.id,
            tunnels: tables::tunnels(&record.tunnels),
            rcode: class.rcode(),
        }
    }
}
