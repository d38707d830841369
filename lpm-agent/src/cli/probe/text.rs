//! Probes as text, in ping's habits.

use std::io::{self, Write};

use super::{
    super::show::{maybe, time},
    Printer,
};
use crate::active::{
    offset::Bounds,
    plan::Plan,
    report::{Answered, At, Report},
    sender::Sender,
    statistics::Distribution,
    summary::{Figures, Session, reordered_backward, reordered_forward},
};

pub(super) struct Text<W> {
    out: W,
    target: String,
}

impl<W: Write> Text<W> {
    pub(super) fn new(out: W) -> Self {
        let target = String::new();
        Self { out, target }
    }
}

/// Writes nanoseconds as a person reads them.
fn show(nanoseconds: i64) -> String {
    maybe(u64::try_from(nanoseconds).ok())
}

fn bounds(bounds: Bounds) -> String {
    format!("{}..{}", show(bounds.lower), show(bounds.upper))
}

impl<W: Write> Printer for Text<W> {
    fn begin(&mut self, plan: &Plan) -> io::Result<()> {
        self.target = plan.target.to_string();
        let interval = u64::try_from(plan.interval.as_nanos()).unwrap_or(u64::MAX);
        let (target, bytes) = (&self.target, plan.length());
        writeln!(
            self.out,
            "STAMP to {target}: {bytes} bytes, every {}",
            time(interval)
        )
    }

    fn packet(&mut self, report: &Report) -> io::Result<()> {
        let out = &mut self.out;
        match report {
            Report::Answered(answered) => answer(out, answered)?,
            Report::Lost { probe, .. } => writeln!(out, "seq={probe} lost")?,
            Report::Late { probe } => writeln!(out, "seq={probe} late")?,
            Report::Duplicate { probe } => writeln!(out, "seq={probe} duplicate")?,
            Report::Unreachable { probe, error } => {
                writeln!(out, "seq={probe} unreachable: {}", error.desc())?;
            }
        }
        out.flush()
    }

    fn end(&mut self, session: &Session, sender: &Sender) -> io::Result<()> {
        let answers = sender.answers();
        let out = &mut self.out;
        writeln!(out, "\n--- {} ---", self.target)?;
        let losses = session.losses(&answers);
        let lost = losses.forward + losses.backward + losses.unknown;
        write!(
            out,
            "{} sent, {} received, {lost} lost",
            session.sent, session.received
        )?;
        if lost > losses.unknown {
            write!(out, " ({} there, {} back)", losses.forward, losses.backward)?;
        }
        for (count, what) in [
            (session.late, "late"),
            (session.duplicates, "duplicate"),
            (session.unreachable, "unreachable"),
            (reordered_forward(&answers).reordered, "reordered there"),
            (reordered_backward(&answers).reordered, "reordered back"),
            (session.void, "void (a clock was set, or impossible times)"),
            (sender.foreign(), "answers of others"),
        ] {
            if count > 0 {
                write!(out, ", {count} {what}")?;
            }
        }
        writeln!(out)?;
        for class in session.figures() {
            figures(out, &class)?;
        }
        Ok(())
    }
}

fn answer(out: &mut impl Write, answered: &Answered) -> io::Result<()> {
    write!(out, "seq={}", answered.probe)?;
    let Some(stamps) = answered.stamps else {
        return writeln!(
            out,
            " answered, but a clock was set, or the times are impossible"
        );
    };
    write!(out, " rtt={}", maybe(positive(stamps.round_trip())))?;
    write!(out, " dwell={}", maybe(positive(stamps.dwell())))?;
    if let Some(delays) = answered.delays {
        write!(out, " there={}", bounds(delays.forward))?;
        write!(out, " back={}", bounds(delays.backward))?;
    }
    write!(out, " ttl={}", answered.ttl)?;
    let times = &answered.sources;
    let all = [
        ("t1", times.sent),
        ("t2", times.reflector_received),
        ("t3", times.reflector_sent),
        ("t4", times.received),
    ];
    // The kernel's times are the rule. What differs is said.
    for (name, at) in all.into_iter().filter(|(_, at)| *at != At::Kernel) {
        write!(out, " {name}={}", at.as_str())?;
    }
    writeln!(out)
}

fn positive(nanoseconds: Option<i64>) -> Option<u64> {
    u64::try_from(nanoseconds?).ok()
}

fn figures(out: &mut impl Write, class: &Figures) -> io::Result<()> {
    let of = &class.sources;
    writeln!(
        out,
        "{} packets with times t1 {}, t2 {}, t3 {}, t4 {}",
        class.round_trips.count(),
        of.sent.as_str(),
        of.reflector_received.as_str(),
        of.reflector_sent.as_str(),
        of.received.as_str()
    )?;
    row(out, "rtt", &class.round_trips)?;
    row(out, "dwell", &class.dwells)?;
    if let (Some(forward), Some(backward)) = (class.forward, class.backward) {
        writeln!(
            out,
            "  mean there {}, back {}",
            bounds(forward),
            bounds(backward)
        )?;
    }
    row(out, "variation there", &class.variation)
}

pub(super) fn row(out: &mut impl Write, name: &str, delays: &Distribution) -> io::Result<()> {
    let (Some(min), Some(mean), Some(max)) = (delays.min(), delays.mean(), delays.max()) else {
        return Ok(());
    };
    let percentile = |hundredths| delays.percentile(hundredths).map_or_else(String::new, show);
    writeln!(
        out,
        "  {name} min/mean/p50/p90/p99/max = {}/{}/{}/{}/{}/{}",
        show(min),
        show(mean),
        percentile(50),
        percentile(90),
        percentile(99),
        show(max)
    )
}
