//! Probes as JSON, a line for each, and a summary as the last one.

use std::{
    io::{self, Write},
    net::SocketAddr,
};

use serde_json::{Map, Value, json};

use super::Printer;
use crate::active::{
    offset::Bounds,
    plan::Plan,
    report::{Answered, Report, Sources},
    sender::Sender,
    statistics::Distribution,
    summary::{Figures, Session, reordered_backward, reordered_forward},
};

/// Version of the records.
pub(super) const SCHEMA: u32 = 1;

pub(super) struct Json<W> {
    out: W,
    target: SocketAddr,
}

impl<W: Write> Json<W> {
    pub(super) fn new(out: W, target: SocketAddr) -> Self {
        Self { out, target }
    }

    fn line(&mut self, record: &Value) -> io::Result<()> {
        writeln!(self.out, "{record}")?;
        self.out.flush()
    }
}

impl<W: Write> Printer for Json<W> {
    fn begin(&mut self, _: &Plan) -> io::Result<()> {
        Ok(())
    }

    fn packet(&mut self, report: &Report) -> io::Result<()> {
        let plain = |probe: &u32, result: &str| json!({"schema": SCHEMA, "type": "packet", "seq": probe, "result": result});
        let record = match report {
            Report::Answered(answered) => packet(answered),
            Report::Lost { probe, .. } => plain(probe, "lost"),
            Report::Late { probe } => plain(probe, "late"),
            Report::Duplicate { probe } => plain(probe, "duplicate"),
            Report::Unreachable { probe, error } => {
                let mut record = plain(probe, "unreachable");
                record["error"] = error.desc().into();
                record
            }
        };
        self.line(&record)
    }

    fn end(&mut self, session: &Session, sender: &Sender) -> io::Result<()> {
        let record = summary(session, sender, self.target);
        self.line(&record)
    }
}

/// Writes the record of an answered probe. What is unknown is left out.
fn packet(answered: &Answered) -> Value {
    let mut record = json!({
        "schema": SCHEMA,
        "type": "packet",
        "seq": answered.probe,
        "result": "ok",
        "stamps": sources(answered.sources),
        "ttl_seen": answered.ttl,
    });
    if let Some(stamps) = answered.stamps {
        record["rtt_ns"] = stamps.round_trip().into();
        record["dwell_ns"] = stamps.dwell().into();
    }
    if let Some(delays) = answered.delays {
        let ends = |bounds: Bounds| json!([bounds.lower, bounds.upper]);
        record["forward_ns"] = ends(delays.forward);
        record["backward_ns"] = ends(delays.backward);
    }
    let mut dscp = Map::new();
    for (way, seen) in [
        ("forward", answered.dscp_forward),
        ("backward", answered.dscp_backward),
    ] {
        if let Some(seen) = seen {
            dscp.insert(way.to_owned(), seen.into());
        }
    }
    if !dscp.is_empty() {
        record["dscp_seen"] = dscp.into();
    }
    record
}

fn sources(sources: Sources) -> Value {
    json!({
        "t1": sources.sent.as_str(),
        "t2": sources.reflector_received.as_str(),
        "t3": sources.reflector_sent.as_str(),
        "t4": sources.received.as_str(),
    })
}

fn summary(session: &Session, sender: &Sender, target: SocketAddr) -> Value {
    let answers = sender.answers();
    let losses = session.losses(&answers);
    let counts = answers.iter().any(|answer| answer.reflected.is_some());
    let mut record = json!({
        "schema": SCHEMA,
        "type": "summary",
        "target": target.to_string(),
        "protocol": "stamp",
        "sent": session.sent,
        "received": session.received,
        "late": session.late,
        "unreachable": session.unreachable,
        "duplicates": session.duplicates,
        "foreign": sender.foreign(),
        "void": session.void,
    });
    if counts {
        record["lost_forward"] = losses.forward.into();
        record["lost_backward"] = losses.backward.into();
        let ways = [reordered_forward(&answers), reordered_backward(&answers)];
        record["reordered"] = ways.iter().map(|way| way.reordered).sum::<u64>().into();
    }
    if losses.unknown > 0 || !counts {
        record["lost"] = losses.unknown.into();
    }
    let mut all = session.figures().into_iter().map(|class| figures(&class));
    if let Some(Value::Object(first)) = all.next() {
        for (key, value) in first {
            record[key] = value;
        }
    }
    let others: Vec<Value> = all.collect();
    if !others.is_empty() {
        record["others"] = others.into();
    }
    record
}

/// Writes the figures of a class of stamps.
fn figures(class: &Figures) -> Value {
    let mut record = json!({"class": sources(class.sources)});
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            record[key] = value;
        }
    };
    put("rtt_ns", distribution(&class.round_trips));
    put("dwell_ns", distribution(&class.dwells));
    let bounds = |bounds: Bounds| json!({"lower": bounds.lower, "upper": bounds.upper});
    put("forward_ns", class.forward.map(bounds));
    put("backward_ns", class.backward.map(bounds));
    put(
        "jitter_ns",
        class.jitter.map(|jitter| json!(jitter.round())),
    );
    put("pdv_ns", distribution(&class.variation));
    record
}

pub(super) fn distribution(delays: &Distribution) -> Option<Value> {
    Some(json!({
        "min": delays.min()?,
        "mean": delays.mean()?,
        "p50": delays.percentile(50)?,
        "p90": delays.percentile(90)?,
        "p99": delays.percentile(99)?,
        "max": delays.max()?,
    }))
}
