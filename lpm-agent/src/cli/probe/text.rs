//! Probes as text, in ping's habits.

use std::io::{self, Write};

use nix::errno::Errno;

use super::{
    super::show::{maybe, time},
    Printer,
};
use crate::active::{
    offset::{Basis, Bounds, Claims, Restart},
    plan::Plan,
    report::{Answered, At, Report, TrainEnd, Void},
    sender::Sender,
    statistics::Distribution,
    summary::{Figures, Session},
};

pub(super) struct Text<W> {
    out: W,
    target: String,
    /// Whether an offset is shown for each train.
    shows_trains: bool,
}

impl<W: Write> Text<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out,
            target: String::new(),
            shows_trains: false,
        }
    }
}

/// Writes nanoseconds as a person reads them.
fn show(nanoseconds: i64) -> String {
    maybe(u64::try_from(nanoseconds).ok())
}

/// Writes nanoseconds that may be less than none.
fn signed(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "+" };
    format!("{sign}{}", time(nanoseconds.unsigned_abs()))
}

fn bounds(bounds: Bounds) -> String {
    format!("{}..{}", show(bounds.lower), show(bounds.upper))
}

impl<W: Write> Printer for Text<W> {
    fn begin(&mut self, plan: &Plan) -> io::Result<()> {
        self.target = plan.target.to_string();
        let interval = u64::try_from(plan.interval.as_nanos()).unwrap_or(u64::MAX);
        let (target, bytes) = (&self.target, plan.length());
        self.shows_trains = plan.train.probes > 1;
        write!(self.out, "STAMP to {target}: {bytes} bytes, ")?;
        if self.shows_trains {
            let spacing = u64::try_from(plan.train.spacing.as_nanos()).unwrap_or(u64::MAX);
            let probes = plan.train.probes;
            write!(self.out, "{probes} of them {} apart, ", time(spacing))?;
        }
        writeln!(self.out, "every {}", time(interval))
    }

    fn packet(&mut self, report: &Report) -> io::Result<()> {
        let out = &mut self.out;
        match report {
            Report::Answered(answered) => answer(out, answered)?,
            Report::Lost { probe, .. } => writeln!(out, "seq={probe} lost")?,
            Report::Late { probe, .. } => writeln!(out, "seq={probe} late")?,
            Report::Duplicate { probe } => writeln!(out, "seq={probe} duplicate")?,
            Report::Unreachable { probe, error } => {
                writeln!(out, "seq={probe} unreachable: {}", error.desc())?;
                if *error == Errno::EMSGSIZE {
                    writeln!(
                        out,
                        "  the packet is longer than the MTU: give fewer bytes with -s"
                    )?;
                }
            }
            Report::Restarted(restart) => writeln!(out, "{}", restarted(*restart))?,
            Report::Train(end) if self.shows_trains => clocks(out, end)?,
            Report::Numbered { .. } | Report::Train(_) => return Ok(()),
        }
        out.flush()
    }

    fn end(&mut self, session: &Session, sender: &Sender) -> io::Result<()> {
        let out = &mut self.out;
        writeln!(out, "\n--- {} ---", self.target)?;
        let losses = session.losses();
        let lost = losses.forward + losses.backward + losses.unknown;
        write!(
            out,
            "{} sent, {} received, {lost} lost",
            session.sent, session.received
        )?;
        if lost > losses.unknown {
            write!(out, " ({} there, {} back)", losses.forward, losses.backward)?;
        }
        let [there, back] = session.reordering().unwrap_or_default();
        for (count, what) in [
            (session.late, "late"),
            (session.duplicates, "duplicate"),
            (session.unreachable, "unreachable"),
            (there.reordered, "reordered there"),
            (back.reordered, "reordered back"),
            (session.clock, "void (a clock was set)"),
            (
                session.impossible,
                "void (the reflector's times are impossible)",
            ),
            (sender.foreign(), "answers of others"),
        ] {
            if count > 0 {
                write!(out, ", {count} {what}")?;
            }
        }
        writeln!(out)?;
        if let Some(end) = &session.clocks {
            clocks(out, end)?;
        }
        if session.refuted > 0 {
            let refuted = session.refuted;
            writeln!(
                out,
                "the clocks' claims were refuted {refuted} times: one clock is wrong"
            )?;
        }
        for class in session.figures() {
            figures(out, &class)?;
        }
        row(out, "queue", &sender.queueing().waited())?;
        Ok(())
    }
}

fn answer(out: &mut impl Write, answered: &Answered) -> io::Result<()> {
    write!(out, "seq={}", answered.probe)?;
    let stamps = match answered.stamps {
        Ok(stamps) => stamps,
        Err(Void::Clock) => return writeln!(out, " answered, but a clock was set"),
        Err(Void::Impossible) => {
            return writeln!(out, " answered, but the reflector's times are impossible");
        }
    };
    write!(out, " rtt={}", maybe(positive(stamps.round_trip())))?;
    write!(out, " dwell={}", maybe(positive(stamps.dwell())))?;
    if let Some(delays) = answered.delays {
        write!(out, " there={}", bounds(delays.forward))?;
        write!(out, " back={}", bounds(delays.backward))?;
    }
    write!(out, " ttl={}", answered.seen.ttl_forward)?;
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

/// Says that what was known of the offset is so no more.
fn restarted(restart: Restart) -> &'static str {
    match restart {
        Restart::SetHere => "this machine's clock was set",
        Restart::RateHere => "this machine's clock left its rate",
        Restart::There => "the reflector's clock was set, or left its rate",
        Restart::Contradiction => {
            "a clock was set or left its rate, and nobody said so: the times exclude each other"
        }
    }
}

/// Writes the offset between the clocks, and what they claim.
fn clocks(out: &mut impl Write, end: &TrainEnd) -> io::Result<()> {
    let Some(known) = end.offset else {
        return Ok(());
    };
    let (lower, upper) = (signed(known.bounds.lower), signed(known.bounds.upper));
    let best = signed(known.estimate.offset);
    write!(out, "  the reflector's clock is {lower}..{upper} ahead, ")?;
    match known.estimate.basis {
        Basis::Claim => write!(out, "best {best} by the clocks' claims")?,
        Basis::Unproven => write!(out, "best {best}, unproven")?,
        Basis::Refuted => write!(out, "best {best}, unproven: the clocks' claims are refuted")?,
    }
    let Claims { here, there } = end.claims;
    let claim = |claim: Option<i64>| claim.map_or_else(|| "nothing".to_owned(), show);
    writeln!(
        out,
        " (claimed here {}, there {})",
        claim(here),
        claim(there)
    )
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
        write!(
            out,
            "  mean there {}, back {}",
            bounds(forward),
            bounds(backward)
        )?;
        if let Some([there, back]) = class.best {
            let unproven = if class.is_unproven { ", unproven" } else { "" };
            write!(out, "; best {} and {}{unproven}", show(there), show(back))?;
        }
        writeln!(out)?;
    }
    row(out, "variation there", &class.variation)?;
    row(out, "variation back", &class.variation_backward)
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
