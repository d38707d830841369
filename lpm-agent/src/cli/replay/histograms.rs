//! The distribution of all round trips of a replay.

use std::io::{self, Write};

use serde::Serialize;

use super::{
    super::show,
    Format,
    output::plain,
    tables::{TIMES, TimesLine, table},
};
use crate::{api::sample::SCHEMA, replay::ByClass};

/// The distribution of one method, leg and echo.
#[derive(Serialize)]
struct HistogramLine {
    schema: u32,
    kind: &'static str,
    #[serde(flatten)]
    times: TimesLine,
    sum_ns: u64,
    /// The buckets that are not empty.
    buckets: Vec<Bucket>,
}

#[derive(Serialize)]
struct Bucket {
    /// Inclusive upper bound of the bucket, nanoseconds.
    le_ns: u64,
    /// Round trips in this bucket alone (not cumulative).
    count: u64,
}

const HISTOGRAM_COLUMNS: [&str; 7] = ["schema", "method", "leg", "echo", "le_ns", "count", "rcode"];

/// Writes the distribution of all round trips.
pub(super) fn histograms(out: &mut impl Write, format: Format, all: &ByClass) -> io::Result<()> {
    match format {
        Format::Json => {
            for (class, times) in all.iter() {
                let buckets = times.buckets();
                let line = HistogramLine {
                    schema: SCHEMA,
                    kind: "histogram",
                    times: TimesLine::new(class, times),
                    sum_ns: times.sum_ns(),
                    buckets: buckets
                        .map(|(le_ns, count)| Bucket { le_ns, count })
                        .collect(),
                };
                serde_json::to_writer(&mut *out, &line)?;
                writeln!(out)?;
            }
            Ok(())
        }
        Format::Csv => {
            let mut csv = csv::Writer::from_writer(out);
            csv.write_record(HISTOGRAM_COLUMNS).map_err(plain)?;
            for (class, times) in all.iter() {
                for (le_ns, count) in times.buckets() {
                    csv.serialize((
                        SCHEMA,
                        class.method(),
                        class.leg(),
                        class.echo(),
                        le_ns,
                        count,
                        class.rcode(),
                    ))
                    .map_err(plain)?;
                }
            }
            csv.flush()
        }
        Format::Text | Format::Ppviz => histogram_text(out, all),
    }
}

fn histogram_text(out: &mut impl Write, all: &ByClass) -> io::Result<()> {
    const WIDTH: u64 = 50;
    let lines = all
        .iter()
        .map(|(class, times)| TimesLine::new(class, times));
    let rows: Vec<_> = lines.map(|line| line.cells()).collect();
    table(out, &TIMES, &rows)?;
    for (class, times) in all.iter() {
        let kind = class.rcode().unwrap_or_else(|| class.echo());
        writeln!(out, "\n{} {} {kind}", class.method(), class.leg())?;
        let most = times.buckets().map(|(_, count)| count).max().unwrap_or(1);
        for (le_ns, count) in times.buckets() {
            let marks = (u128::from(count) * u128::from(WIDTH)).div_ceil(u128::from(most));
            let marks = "#".repeat(usize::try_from(marks).unwrap_or(0));
            writeln!(out, "<= {:>8} {count:>9} {marks}", show::time(le_ns))?;
        }
    }
    Ok(())
}
