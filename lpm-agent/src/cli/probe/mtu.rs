//! `lpm probe --mtu`: the longest packet that the path to a target takes.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::{
    super::signals::BlockedSignals,
    Format, Probe, enter, json as records,
    path::{protocol, target},
};
use crate::active::path::{
    Plan,
    mtu::{Finder, Outcome, Short, Step},
    search::Limit,
};

impl Probe {
    /// Searches for a path's MTU.
    pub(super) fn execute_mtu(&self, netns: Option<&String>) -> anyhow::Result<ExitCode> {
        enter(netns)?;
        let signals = BlockedSignals::new().context("cannot wait for signals")?;
        self.refuse(
            "--mtu",
            &[
                (self.count.is_some(), "counts", "-c"),
                (self.size != 0, "lengths", "-s"),
            ],
        )?;
        let plan = self.path_plan("--mtu")?;
        let mut out = io::stdout();
        let mut finder = Finder::open(&plan).with_context(|| self.no_socket(&plan))?;
        let is_text = self.format == Format::Text;
        if is_text {
            writeln!(out, "MTU to {} by {}", target(&plan), protocol(&plan))?;
        }
        let outcome = finder.run(&signals, |step| {
            if is_text {
                line(&mut out, step)?;
            } else {
                writeln!(out, "{}", record(step))?;
            }
            out.flush()
        })?;
        if is_text {
            end(&mut out, &plan, &outcome, finder.short())?;
        } else {
            writeln!(out, "{}", summary(&plan, &outcome, finder.short()))?;
        }
        Ok(match outcome {
            Outcome::Found { .. } => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        })
    }
}

/// Writes why longer packets do not pass, behind a verb.
fn reason(limit: Limit) -> String {
    match limit {
        Limit::Interface => "too long for this machine's interface".to_owned(),
        Limit::Router {
            by,
            said: Some(said),
        } => format!("too big, says {by}, whose next link takes {said}"),
        Limit::Router { by, said: None } => format!("too big, says {by}"),
        Limit::BlackHole => "vanish without a word: a black hole".to_owned(),
        Limit::Refused {
            error,
            by: Some(by),
        } => format!("{}, says {by}", error.desc()),
        Limit::Refused { error, by: None } => error.desc().to_owned(),
    }
}

fn line(out: &mut impl Write, step: &Step) -> io::Result<()> {
    let size = step.size;
    match step.limit {
        None => writeln!(out, "{size} bytes: pass"),
        Some(Limit::BlackHole) => {
            let sent = step.sent;
            writeln!(out, "{size} bytes: vanish, none of {sent} was answered")
        }
        Some(limit) => writeln!(out, "{size} bytes: {}", reason(limit)),
    }
}

fn end(out: &mut impl Write, plan: &Plan, outcome: &Outcome, short: Short) -> io::Result<()> {
    writeln!(out, "\n--- {} ---", target(plan))?;
    match outcome {
        Outcome::Found { mtu, limit: None } => {
            writeln!(out, "MTU at least {mtu}: no longer packet was sent")
        }
        Outcome::Found {
            mtu,
            limit: Some(limit),
        } => writeln!(out, "MTU {mtu}; {} bytes: {}", mtu + 1, reason(*limit)),
        Outcome::Silent { refused: None } => writeln!(out, "no answer, not even to short packets"),
        Outcome::Silent {
            refused: Some((error, by)),
        } => {
            let (error, by) = (*error, *by);
            writeln!(out, "no answer: {}", reason(Limit::Refused { error, by }))
        }
        Outcome::Unsteady { passed, size } => writeln!(
            out,
            "unknown: {passed} bytes pass; at {size} bytes too many short packets were lost, too, to \
             tell why. Try again with a longer -W"
        ),
        Outcome::Ended => writeln!(out, "ended before the MTU was known"),
    }?;
    writeln!(
        out,
        "{} of {} short packets were answered",
        short.answered, short.sent
    )
}

/// Adds why longer packets do not pass. What is unknown is left out.
fn put(record: &mut Value, key: &str, limit: Limit) {
    record[key] = match limit {
        Limit::Interface => "interface",
        Limit::Router { .. } => "too_big",
        Limit::BlackHole => "black_hole",
        Limit::Refused { .. } => "unreachable",
    }
    .into();
    let by = match limit {
        Limit::Router { by, said } => {
            if let Some(said) = said {
                record["said"] = said.into();
            }
            Some(by)
        }
        Limit::Refused { error, by } => {
            record["error"] = error.desc().into();
            by
        }
        Limit::Interface | Limit::BlackHole => None,
    };
    if let Some(by) = by {
        record["by"] = by.to_string().into();
    }
}

fn record(step: &Step) -> Value {
    let mut record = json!({
        "schema": records::SCHEMA,
        "type": "mtu",
        "bytes": step.size,
        "sent": step.sent,
        "result": "ok",
    });
    if let Some(limit) = step.limit {
        put(&mut record, "result", limit);
    }
    record
}

fn summary(plan: &Plan, outcome: &Outcome, short: Short) -> Value {
    let mut record = json!({
        "schema": records::SCHEMA,
        "type": "summary",
        "target": target(plan),
        "protocol": plan.protocol.as_str(),
        "short": {"sent": short.sent, "answered": short.answered},
    });
    match outcome {
        Outcome::Found { mtu, limit } => {
            record["mtu"] = (*mtu).into();
            match limit {
                Some(limit) => {
                    record["fails"] = (mtu + 1).into();
                    put(&mut record, "limit", *limit);
                }
                None => record["limit"] = "longest".into(),
            }
        }
        Outcome::Silent { refused } => {
            record["limit"] = "silent".into();
            if let Some((error, by)) = refused {
                let (error, by) = (*error, *by);
                put(&mut record, "limit", Limit::Refused { error, by });
            }
        }
        Outcome::Unsteady { passed, size } => {
            record["limit"] = "unknown".into();
            record["passes"] = (*passed).into();
            record["unjudged"] = (*size).into();
        }
        Outcome::Ended => record["limit"] = "unknown".into(),
    }
    record
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, time::Duration};

    use nix::errno::Errno;

    use super::*;
    use crate::active::{icmp::socket::Route, path::Protocol};

    fn plan() -> Plan {
        Plan {
            target: "198.18.3.2:862".parse().expect("an address"),
            protocol: Protocol::Stamp,
            route: Route::default(),
            timeout: Duration::from_secs(1),
        }
    }

    #[test]
    fn each_limit_has_its_own_words() {
        let by = IpAddr::from([198, 18, 2, 2]);
        let found = |limit| Outcome::Found { mtu: 1400, limit };
        let of = |outcome| {
            let mut text = Vec::new();
            end(&mut text, &plan(), &outcome, Short::default()).expect("written");
            let text = String::from_utf8(text).expect("text");
            (summary(&plan(), &outcome, Short::default()), text)
        };
        let said = Some(1400);
        let (record, text) = of(found(Some(Limit::Router { by, said })));
        assert_eq!(
            (&record["mtu"], &record["fails"]),
            (&1400.into(), &1401.into())
        );
        assert_eq!(
            (&record["limit"], &record["said"]),
            (&"too_big".into(), &1400.into())
        );
        assert_eq!(record["by"], "198.18.2.2");
        assert!(
            text.contains("MTU 1400; 1401 bytes: too big, says 198.18.2.2"),
            "{text}"
        );
        let (record, text) = of(found(Some(Limit::BlackHole)));
        assert_eq!(record["limit"], "black_hole");
        assert_eq!((record.get("by"), record.get("said")), (None, None));
        assert!(text.contains("1401 bytes: vanish without a word"), "{text}");
        let (record, _) = of(found(Some(Limit::Interface)));
        assert_eq!(record["limit"], "interface");
        let (record, text) = of(found(None));
        assert_eq!(
            (&record["limit"], record.get("fails")),
            (&"longest".into(), None)
        );
        assert!(text.contains("MTU at least 1400"), "{text}");
        let refused = Some((Errno::ECONNREFUSED, Some(by)));
        let (record, text) = of(Outcome::Silent { refused });
        assert_eq!(
            (record.get("mtu"), &record["limit"]),
            (None, &"unreachable".into())
        );
        assert!(
            text.contains("Connection refused, says 198.18.2.2"),
            "{text}"
        );
        let (passed, size) = (576, 1400);
        let (record, _) = of(Outcome::Unsteady { passed, size });
        assert_eq!((record.get("mtu"), &record["passes"]), (None, &576.into()));
    }

    #[test]
    fn a_length_says_what_became_of_it() {
        let step = |limit| Step {
            size: 1401,
            sent: 6,
            limit,
        };
        let expected =
            json!({"schema": 1, "type": "mtu", "bytes": 1401, "sent": 6, "result": "ok"});
        assert_eq!(record(&step(None)), expected);
        assert_eq!(
            record(&step(Some(Limit::BlackHole)))["result"],
            "black_hole"
        );
        let mut out = Vec::new();
        line(&mut out, &step(Some(Limit::BlackHole))).expect("written");
        line(&mut out, &step(None)).expect("written");
        let text = String::from_utf8(out).expect("text");
        assert_eq!(
            text,
            "1401 bytes: vanish, none of 6 was answered\n1401 bytes: pass\n"
        );
    }
}
