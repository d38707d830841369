//! `lpm probe --protocol icmp`: the round trip to a machine without a reflector.

use std::{
    fmt::Display,
    io::{self, Write},
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use serde_json::{Value, json};

use super::{
    super::{
        show::{maybe, time},
        signals::BlockedSignals,
    },
    Ends, Format, Probe, enter, json as records,
    text::row,
};
use crate::active::{
    icmp::{
        packet::{HEADER, LONGEST, SHORTEST},
        sender::{Plan, Sender},
        socket::{OpenError, Route},
        summary::{Answered, Figures, Report, Session},
    },
    report::At,
};

/// Bytes of data unless told otherwise: ping's.
const DATA: usize = 56;

/// What T2 and T3 are in the output: the target does not tell them.
const UNKNOWN: &str = "unknown";

impl Probe {
    /// Runs a session of echo requests.
    pub(super) fn execute_icmp(&self, netns: Option<&String>) -> anyhow::Result<ExitCode> {
        enter(netns)?;
        let signals = BlockedSignals::new().context("cannot wait for signals")?;
        let plan = self.echo_plan()?;
        let mut out = io::stdout();
        let mut session = Session::default();
        let mut sender = Sender::open(plan.clone()).map_err(|error| {
            let target = plan.target.ip();
            match &self.from {
                Some(from) if !matches!(error, OpenError::Refused { .. }) => anyhow!(
                    "cannot probe {target} by ICMP from {from}: {error}; -I takes an interface of \
                     `ip link`, or an address of this machine"
                ),
                _ => anyhow!("cannot probe {target} by ICMP: {error}"),
            }
        })?;
        let is_text = self.format == Format::Text;
        if is_text {
            begin(&mut out, &plan, sender.is_raw())?;
        }
        sender.run(&signals, |report| {
            session.take(&report);
            if is_text {
                line(&mut out, &report)?;
            } else {
                writeln!(out, "{}", record(&report))?;
            }
            out.flush()
        })?;
        let foreign = sender.foreign();
        if is_text {
            end(&mut out, &session, &plan.target.ip(), foreign)?;
        } else {
            writeln!(
                out,
                "{}",
                summary(&session, &plan.target.ip(), "icmp", foreign)
            )?;
        }
        Ok(if session.has_answers() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn echo_plan(&self) -> anyhow::Result<Plan> {
        if self.key.is_some() {
            bail!("ICMP knows no keys: leave out --key, or use --protocol stamp");
        }
        if self.train.is_some() {
            bail!("ICMP knows no trains: leave out --train, or use --protocol stamp");
        }
        if self.ecn != 0 {
            bail!(
                "a target's kernel does not tell the ECN that it saw: leave out --ecn, or use \
                 --protocol stamp"
            );
        }
        let Ends {
            target,
            from,
            interface,
        } = self.ends(resolve)?;
        let size = match self.size {
            0 => DATA,
            size => size.clamp(SHORTEST, LONGEST),
        };
        Ok(Plan {
            target,
            route: Route {
                from,
                interface,
                dscp: self.dscp,
            },
            count: self.count,
            interval: self.interval,
            size,
            timeout: self.timeout,
        })
    }
}

/// Finds the address of a target. The port of the result is 0.
pub(super) fn resolve(text: &str, from: Option<IpAddr>) -> anyhow::Result<SocketAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, 0));
    }
    let has_port = text.rsplit_once(':').is_some();
    if has_port && !text.contains("::") {
        bail!("{text}: ICMP has no ports, give a name or an address alone");
    }
    let mut found = (text, 0).to_socket_addrs().with_context(|| {
        format!("cannot find {text}: give an address, or check the name (`getent hosts {text}`)")
    })?;
    found
        .find(|address| from.is_none_or(|from| from.is_ipv4() == address.is_ipv4()))
        .with_context(|| format!("{text} has no address of the family that -I asks for"))
}

fn begin(out: &mut impl Write, plan: &Plan, is_raw: bool) -> io::Result<()> {
    let every = |interval: Duration| u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
    writeln!(
        out,
        "ICMP to {}: {} bytes, every {}, by a {} socket",
        plan.target.ip(),
        plan.size + HEADER,
        time(every(plan.interval)),
        if is_raw { "raw" } else { "datagram" }
    )
}

fn line(out: &mut impl Write, report: &Report) -> io::Result<()> {
    say(out, report)?;
    writeln!(out)
}

/// Writes a report without the end of the line.
pub(super) fn say(out: &mut impl Write, report: &Report) -> io::Result<()> {
    match report {
        Report::Answered(answered) => answer(out, answered),
        Report::Lost { probe } => write!(out, "seq={probe} lost"),
        Report::Late { probe } => write!(out, "seq={probe} late"),
        Report::Duplicate { probe } => write!(out, "seq={probe} duplicate"),
        Report::Unreachable { probe, error, by } => {
            write!(out, "seq={probe} unreachable: {}", error.desc())?;
            if let Some(by) = by {
                write!(out, ", says {by}")?;
            }
            Ok(())
        }
    }
}

fn answer(out: &mut impl Write, answered: &Answered) -> io::Result<()> {
    let probe = answered.probe;
    let Some(round_trip) = answered.round_trip else {
        return write!(out, "seq={probe} answered, but a clock was set");
    };
    write!(out, "seq={probe} rtt={}", show(round_trip))?;
    if let Some(ttl) = answered.ttl {
        write!(out, " ttl={ttl}")?;
    }
    for (name, at) in [("t1", answered.sent), ("t4", answered.received)] {
        if at != At::Kernel {
            write!(out, " {name}={}", at.as_str())?;
        }
    }
    Ok(())
}

fn show(nanoseconds: i64) -> String {
    maybe(u64::try_from(nanoseconds).ok())
}

/// Writes what became of a session's probes. `foreign`: answers that are of no probe.
pub(super) fn end(
    out: &mut impl Write,
    session: &Session,
    target: &impl Display,
    foreign: u64,
) -> io::Result<()> {
    writeln!(out, "\n--- {target} ---")?;
    write!(
        out,
        "{} sent, {} received, {} lost",
        session.sent, session.received, session.lost
    )?;
    for (count, what) in [
        (session.late, "late"),
        (session.duplicates, "duplicate"),
        (session.unreachable, "unreachable"),
        (session.reordered(), "reordered"),
        (session.void, "void (a clock was set)"),
        (foreign, "answers of others"),
    ] {
        if count > 0 {
            write!(out, ", {count} {what}")?;
        }
    }
    writeln!(out)?;
    for class in session.figures() {
        writeln!(
            out,
            "{} packets with times t1 {}, t2 {UNKNOWN}, t3 {UNKNOWN}, t4 {}",
            class.round_trips.count(),
            class.sent.as_str(),
            class.received.as_str()
        )?;
        row(out, "rtt", &class.round_trips)?;
    }
    Ok(())
}

/// The sources of the four times. The target tells none of its own.
fn sources(sent: At, received: At) -> Value {
    json!({"t1": sent.as_str(), "t2": UNKNOWN, "t3": UNKNOWN, "t4": received.as_str()})
}

/// Writes the record of a probe. What is unknown is left out.
pub(super) fn record(report: &Report) -> Value {
    let plain = |probe: &u32, result: &str| json!({"schema": records::SCHEMA, "type": "packet", "seq": probe, "result": result});
    match report {
        Report::Answered(answered) => {
            let mut record = plain(&answered.probe, "ok");
            record["stamps"] = sources(answered.sent, answered.received);
            if let Some(round_trip) = answered.round_trip {
                record["rtt_ns"] = round_trip.into();
            }
            if let Some(ttl) = answered.ttl {
                record["ttl_seen"] = ttl.into();
            }
            if let Some(class) = answered.traffic_class {
                record["dscp_seen"] = json!({"backward": class >> 2});
            }
            record
        }
        Report::Lost { probe } => plain(probe, "lost"),
        Report::Late { probe } => plain(probe, "late"),
        Report::Duplicate { probe } => plain(probe, "duplicate"),
        Report::Unreachable { probe, error, by } => {
            let mut record = plain(probe, "unreachable");
            record["error"] = error.desc().into();
            if let Some(by) = by {
                record["by"] = by.to_string().into();
            }
            record
        }
    }
}

/// Writes the record of a session. `foreign`: answers that are of no probe.
pub(super) fn summary(
    session: &Session,
    target: &impl Display,
    protocol: &str,
    foreign: u64,
) -> Value {
    let mut record = json!({
        "schema": records::SCHEMA,
        "type": "summary",
        "target": target.to_string(),
        "protocol": protocol,
        "sent": session.sent,
        "received": session.received,
        "lost": session.lost,
        "late": session.late,
        "unreachable": session.unreachable,
        "duplicates": session.duplicates,
        "reordered": session.reordered(),
        "foreign": foreign,
        "void": session.void,
    });
    let figures = |class: &Figures| {
        json!({
            "class": sources(class.sent, class.received),
            "rtt_ns": records::distribution(&class.round_trips),
        })
    };
    let mut all = session.figures().into_iter();
    if let Some(Value::Object(first)) = all.next().as_ref().map(figures) {
        for (key, value) in first {
            record[key] = value;
        }
    }
    let others: Vec<Value> = all.map(|class| figures(&class)).collect();
    if !others.is_empty() {
        record["others"] = others.into();
    }
    record
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    #[test]
    fn a_target_has_no_port() {
        let of = |text| resolve(text, None).map(|address| address.ip().to_string());
        assert_eq!(of("198.18.0.1").expect("an address"), "198.18.0.1");
        assert_eq!(of("fd00::1").expect("an address"), "fd00::1");
        for text in ["198.18.0.1:862", "localhost:862", "[fd00::1]:862"] {
            let error = of(text).expect_err(text);
            assert!(format!("{error:#}").contains(text), "{error:#}");
        }
    }

    #[test]
    fn what_is_unknown_is_left_out_or_said_to_be() {
        let mut answered = Answered {
            probe: 3,
            round_trip: Some(11_250),
            sent: At::Kernel,
            received: At::User,
            ttl: Some(63),
            traffic_class: Some(46 << 2),
        };
        let of = |answered: &Answered| record(&Report::Answered(answered.clone()));
        let expected = json!({
            "schema": 1, "type": "packet", "seq": 3, "result": "ok", "rtt_ns": 11_250,
            "stamps": {"t1": "kernel", "t2": "unknown", "t3": "unknown", "t4": "user"},
            "ttl_seen": 63, "dscp_seen": {"backward": 46},
        });
        assert_eq!(of(&answered), expected);
        (answered.round_trip, answered.ttl, answered.traffic_class) = (None, None, None);
        let expected = json!({
            "schema": 1, "type": "packet", "seq": 3, "result": "ok",
            "stamps": {"t1": "kernel", "t2": "unknown", "t3": "unknown", "t4": "user"},
        });
        assert_eq!(of(&answered), expected);
        let refused = Report::Unreachable {
            probe: 4,
            error: Errno::EHOSTUNREACH,
            by: Some(IpAddr::from([198, 18, 1, 1])),
        };
        assert_eq!(record(&refused)["by"], "198.18.1.1");
        let empty = summary(
            &Session::default(),
            &IpAddr::from([198, 18, 0, 1]),
            "icmp",
            0,
        );
        assert_eq!(empty.get("rtt_ns"), None, "not measured is not 0");
    }

    #[test]
    fn text_says_what_differs() {
        let mut out = Vec::new();
        let answered = Answered {
            probe: 3,
            round_trip: Some(11_250),
            sent: At::User,
            received: At::Kernel,
            ttl: None,
            traffic_class: None,
        };
        line(&mut out, &Report::Answered(answered)).expect("written");
        let refused = Report::Unreachable {
            probe: 4,
            error: Errno::ENETUNREACH,
            by: None,
        };
        line(&mut out, &refused).expect("written");
        let text = String::from_utf8(out).expect("text");
        let mut lines = text.lines();
        let first = lines.next().expect("a line");
        assert!(first.starts_with("seq=3 rtt=") && first.ends_with(" t1=user"));
        assert_eq!(
            lines.next(),
            Some("seq=4 unreachable: Network is unreachable")
        );
    }
}
