//! `lpm probe --hops`: the routers on the way to a target.

use std::{
    io::{self, Write},
    net::IpAddr,
    process::ExitCode,
};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::{
    super::{show::maybe, signals::BlockedSignals},
    Format, Probe, enter, json as records,
    path::{protocol, target},
};
use crate::active::{
    path::{
        Plan,
        hops::{Echo, Ending, Hop, Questions, Walker},
    },
    report::At,
};

/// Packets of each TTL unless told otherwise.
const PACKETS: u32 = 3;

/// The last TTL: traceroute's.
const MOST: u8 = 30;

/// The end of a walk.
#[derive(Clone, Copy, Debug, Default)]
struct End {
    /// The last TTL that was asked.
    ttl: u8,
    is_reached: bool,
    is_refused: bool,
}

impl End {
    fn take(&mut self, hop: &Hop) {
        self.ttl = hop.ttl;
        self.is_reached = hop.is_reached();
        self.is_refused = hop.is_refused();
    }

    /// Routers before the target. None: it was not reached.
    fn routers(self) -> Option<u8> {
        self.ttl.checked_sub(1).filter(|_| self.is_reached)
    }
}

impl Probe {
    /// Lists the routers on the way.
    pub(super) fn execute_hops(&self, netns: Option<&String>) -> anyhow::Result<ExitCode> {
        enter(netns)?;
        let signals = BlockedSignals::new().context("cannot wait for signals")?;
        let plan = self.path_plan("--hops")?;
        let questions = Questions {
            packets: self.count.unwrap_or(PACKETS),
            // The headers of IP and of UDP or ICMP are beyond what -s counts.
            size: match (self.size, plan.target.is_ipv6()) {
                (0, _) => 0,
                (size, true) => size + 48,
                (size, false) => size + 28,
            },
            most: MOST,
        };
        let mut out = io::stdout();
        let mut end = End::default();
        let mut walker = Walker::open(&plan, questions).with_context(|| self.no_socket(&plan))?;
        let is_text = self.format == Format::Text;
        if is_text {
            let (to, by, size) = (target(&plan), protocol(&plan), walker.size());
            writeln!(
                out,
                "hops to {to} by {by}: packets of {size} bytes, at most {MOST} hops"
            )?;
        }
        walker.run(&signals, |hop| {
            end.take(hop);
            if is_text {
                line(&mut out, hop)?;
            } else {
                writeln!(out, "{}", record(hop))?;
            }
            out.flush()
        })?;
        if is_text {
            conclude(&mut out, &plan, end, walker.unmatched())?;
        } else {
            writeln!(out, "{}", summary(&plan, end, walker.unmatched()))?;
        }
        Ok(if end.is_reached {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// The machines that answered, each once, with what they sent.
fn by_machine(hop: &Hop) -> Vec<(Option<IpAddr>, Vec<&Echo>)> {
    let mut all: Vec<(Option<IpAddr>, Vec<&Echo>)> = Vec::new();
    for echo in &hop.echoes {
        match all.iter_mut().find(|(by, _)| *by == echo.by) {
            Some((_, echoes)) => echoes.push(echo),
            None => all.push((echo.by, vec![echo])),
        }
    }
    all
}

fn line(out: &mut impl Write, hop: &Hop) -> io::Result<()> {
    write!(out, "{:>2}", hop.ttl)?;
    for (by, echoes) in by_machine(hop) {
        match by {
            Some(by) => write!(out, "  {by}")?,
            None => write!(out, "  this machine")?,
        }
        for echo in echoes {
            if let Some(round_trip) = echo.round_trip {
                write!(out, " {}", maybe(u64::try_from(round_trip).ok()))?;
            }
            // The kernel's times are the rule. What differs is said.
            if echo.by.is_some() && (echo.sent, echo.received) != (At::Kernel, At::Kernel) {
                write!(
                    out,
                    " (t1={} t4={})",
                    echo.sent.as_str(),
                    echo.received.as_str()
                )?;
            }
            if let Ending::Refused(error) = echo.ending {
                write!(out, " ({})", error.desc())?;
            }
        }
    }
    let answered = u32::try_from(hop.echoes.len()).unwrap_or(u32::MAX);
    match hop.sent.saturating_sub(answered) {
        0 => writeln!(out),
        _ if answered == 0 => writeln!(out, "  no answer"),
        silent => writeln!(out, "  {silent} without an answer"),
    }
}

fn conclude(out: &mut impl Write, plan: &Plan, end: End, unmatched: u64) -> io::Result<()> {
    writeln!(out, "\n--- {} ---", target(plan))?;
    match end.routers() {
        Some(1) => writeln!(out, "reached behind 1 router")?,
        Some(routers) => writeln!(out, "reached behind {routers} routers")?,
        None if end.is_refused => writeln!(out, "not reached: refused at hop {}", end.ttl)?,
        None => writeln!(out, "not reached within {} hops", end.ttl)?,
    }
    if unmatched > 0 {
        writeln!(
            out,
            "{unmatched} messages of routers quote too little to be matched"
        )?;
    }
    Ok(())
}

/// Writes the record of a TTL. A hop that nobody answers has no machine.
fn record(hop: &Hop) -> Value {
    let answers: Vec<Value> = hop.echoes.iter().map(answer).collect();
    json!({
        "schema": records::SCHEMA,
        "type": "hop",
        "ttl": hop.ttl,
        "sent": hop.sent,
        "answers": answers,
    })
}

fn answer(echo: &Echo) -> Value {
    let result = match echo.ending {
        Ending::Expired => "expired",
        Ending::Reached => "reached",
        Ending::Refused(_) => "unreachable",
    };
    let mut record = json!({"result": result});
    if let Some(by) = echo.by {
        record["by"] = by.to_string().into();
        record["stamps"] = json!({"t1": echo.sent.as_str(), "t4": echo.received.as_str()});
    }
    if let Some(round_trip) = echo.round_trip {
        record["rtt_ns"] = round_trip.into();
    }
    if let Ending::Refused(error) = echo.ending {
        record["error"] = error.desc().into();
    }
    record
}

fn summary(plan: &Plan, end: End, unmatched: u64) -> Value {
    let mut record = json!({
        "schema": records::SCHEMA,
        "type": "summary",
        "target": target(plan),
        "protocol": plan.protocol.as_str(),
        "reached": end.is_reached,
        "unmatched": unmatched,
    });
    if let Some(routers) = end.routers() {
        record["hops"] = routers.into();
    }
    record
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::errno::Errno;

    use super::*;
    use crate::active::{icmp::socket::Route, path::Protocol};

    fn echo(by: Option<IpAddr>, ending: Ending, received: At) -> Echo {
        Echo {
            by,
            ending,
            round_trip: by.map(|_| 20_000),
            sent: At::Kernel,
            received,
        }
    }

    fn text(hop: &Hop) -> String {
        let mut out = Vec::new();
        line(&mut out, hop).expect("written");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_hop_that_nobody_answers_has_no_machine_and_no_figure() {
        let hop = Hop {
            ttl: 2,
            sent: 3,
            echoes: Vec::new(),
        };
        let expected = json!({"schema": 1, "type": "hop", "ttl": 2, "sent": 3, "answers": []});
        assert_eq!(record(&hop), expected);
        assert_eq!(text(&hop), " 2  no answer\n");
        assert!(!hop.is_reached() && !hop.is_refused());
    }

    #[test]
    fn who_answers_is_told_with_the_times() {
        let by = Some(IpAddr::from([198, 18, 1, 1]));
        let hop = Hop {
            ttl: 1,
            sent: 3,
            echoes: vec![
                echo(by, Ending::Expired, At::Kernel),
                echo(by, Ending::Refused(Errno::EHOSTUNREACH), At::User),
            ],
        };
        let answers = &record(&hop)["answers"];
        assert_eq!(answers[0]["by"], "198.18.1.1");
        assert_eq!(answers[0]["rtt_ns"], 20_000);
        assert_eq!(
            answers[0]["stamps"],
            json!({"t1": "kernel", "t4": "kernel"})
        );
        assert_eq!(answers[1]["error"], "No route to host");
        let text = text(&hop);
        assert!(text.starts_with(" 1  198.18.1.1 "), "{text}");
        assert!(
            text.contains("(t1=kernel t4=user) (No route to host)"),
            "{text}"
        );
        assert!(text.ends_with("1 without an answer\n"), "{text}");
    }

    #[test]
    fn the_end_counts_the_routers() {
        let plan = Plan {
            target: "198.18.3.2:0".parse().expect("an address"),
            protocol: Protocol::Icmp,
            route: Route::default(),
            timeout: Duration::from_secs(1),
        };
        let by = Some(IpAddr::from([198, 18, 3, 2]));
        let mut end = End::default();
        end.take(&Hop {
            ttl: 4,
            sent: 1,
            echoes: vec![echo(by, Ending::Reached, At::Kernel)],
        });
        let record = summary(&plan, end, 0);
        assert_eq!(
            (&record["hops"], &record["reached"]),
            (&3.into(), &true.into())
        );
        assert_eq!(record["target"], "198.18.3.2");
        end.is_reached = false;
        assert_eq!(summary(&plan, end, 0).get("hops"), None);
    }
}
