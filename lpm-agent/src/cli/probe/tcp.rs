//! `lpm probe --protocol tcp`: the round trip of a SYN to a port of any machine.

use std::{
    io::{self, Write},
    net::SocketAddr,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::{
    super::{show::time, signals::BlockedSignals},
    Ends, Format, Probe, enter, icmp,
};
use crate::active::{
    icmp::socket::Route,
    tcp::{LONGEST, Plan, Report, Session, sender::Sender},
};

impl Probe {
    /// Runs a session of SYNs.
    pub(super) fn execute_tcp(&self, netns: Option<&String>) -> anyhow::Result<ExitCode> {
        enter(netns)?;
        let signals = BlockedSignals::new().context("cannot wait for signals")?;
        let plan = self.syn_plan()?;
        let mut out = io::stdout();
        let mut session = Session::default();
        let mut sender = Sender::open(plan.clone()).with_context(|| match &self.from {
            Some(from) => format!(
                "cannot probe {} by TCP from {from}: -I takes an interface of `ip link`, or an \
                 address of this machine",
                plan.target
            ),
            None => format!("cannot probe {} by TCP", plan.target),
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
            icmp::end(&mut out, &session.figures, &plan.target, foreign)?;
        } else {
            writeln!(out, "{}", summary(&session, plan.target, foreign))?;
        }
        Ok(if session.figures.has_answers() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn syn_plan(&self) -> anyhow::Result<Plan> {
        self.refuse(
            "TCP",
            &[
                (self.key.is_some(), "keys", "--key"),
                (self.train.is_some(), "trains", "--train"),
                (self.ecn != 0, "ECN that the target saw", "--ecn"),
                (self.size != 0, "other lengths of a SYN", "-s"),
            ],
        )?;
        if self.timeout > LONGEST {
            bail!(
                "a SYN or its answer that is lost is sent again after a second, and a round trip \
                 would be a second too long: give at most 1 with -W"
            );
        }
        let Ends {
            target,
            from,
            interface,
        } = self.ends(|text, from| {
            let has_port = text.parse::<SocketAddr>().is_ok()
                || (text.contains(':') && text.parse::<std::net::Ipv6Addr>().is_err());
            if !has_port {
                bail!("{text}: TCP needs a port, such as {}", with_port(text));
            }
            super::resolve(text, from)
        })?;
        Ok(Plan {
            target,
            route: Route {
                from,
                interface,
                dscp: self.dscp,
            },
            count: self.count,
            interval: self.interval,
            timeout: self.timeout,
        })
    }
}

/// Writes a target with a port, as an example.
fn with_port(text: &str) -> String {
    if text.contains(':') {
        format!("[{text}]:443")
    } else {
        format!("{text}:443")
    }
}

fn begin(out: &mut impl Write, plan: &Plan, is_raw: bool) -> io::Result<()> {
    let every = |interval: Duration| u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
    writeln!(
        out,
        "TCP SYN to {}, every {}, {}",
        plan.target,
        time(every(plan.interval)),
        if is_raw {
            "by a raw socket"
        } else {
            "by connect(2): without the capability NET_RAW there are no times at the device"
        }
    )
}

fn line(out: &mut impl Write, report: &Report) -> io::Result<()> {
    icmp::say(out, &report.what)?;
    match report.answer {
        Some(answer) => writeln!(out, " {}", answer.as_str()),
        None => writeln!(out),
    }
}

fn record(report: &Report) -> Value {
    let mut record = icmp::record(&report.what);
    if let Some(answer) = report.answer {
        record["answer"] = answer.as_str().into();
    }
    record
}

fn summary(session: &Session, target: SocketAddr, foreign: u64) -> Value {
    let mut record = icmp::summary(&session.figures, &target, "tcp", foreign);
    record["syn_acks"] = session.syn_acks.into();
    record["resets"] = session.resets.into();
    record
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;
    use serde_json::json;

    use super::*;
    use crate::active::{
        icmp::summary::{self as plain, Answered},
        report::At,
        tcp::Answer,
    };

    fn answered(answer: Answer, at: At) -> Report {
        Report {
            what: plain::Report::Answered(Answered {
                probe: 3,
                round_trip: Some(11_250),
                sent: at,
                received: at,
                ttl: Some(63),
                traffic_class: None,
            }),
            answer: Some(answer),
        }
    }

    #[test]
    fn an_answer_says_what_it_was_and_where_its_times_come_from() {
        let report = answered(Answer::Reset, At::Kernel);
        let expected = json!({
            "schema": 1, "type": "packet", "seq": 3, "result": "ok", "answer": "rst",
            "rtt_ns": 11_250, "ttl_seen": 63,
            "stamps": {"t1": "kernel", "t2": "unknown", "t3": "unknown", "t4": "kernel"},
        });
        assert_eq!(record(&report), expected);
        let mut out = Vec::new();
        line(&mut out, &report).expect("written");
        line(&mut out, &answered(Answer::SynAck, At::Tcp)).expect("written");
        let error = Errno::EHOSTUNREACH;
        let refused = plain::Report::Unreachable {
            probe: 4,
            error,
            by: None,
        };
        line(&mut out, &refused.into()).expect("written");
        let text = String::from_utf8(out).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with(" ttl=63 rst"), "{text}");
        assert!(lines[1].ends_with(" t1=tcp t4=tcp syn-ack"), "{text}");
        assert_eq!(lines[2], "seq=4 unreachable: No route to host");
    }

    #[test]
    fn a_session_counts_how_it_was_answered() {
        let mut session = Session::default();
        session.take(&answered(Answer::SynAck, At::Kernel));
        session.take(&answered(Answer::Reset, At::Kernel));
        session.take(&answered(Answer::Reset, At::Kernel));
        session.take(&plain::Report::Lost { probe: 9 }.into());
        let target = "198.18.0.1:80".parse().expect("an address");
        let record = summary(&session, target, 0);
        assert_eq!(
            (&record["syn_acks"], &record["resets"]),
            (&1.into(), &2.into())
        );
        assert_eq!((&record["sent"], &record["lost"]), (&4.into(), &1.into()));
        assert_eq!(record["target"], "198.18.0.1:80");
    }
}
