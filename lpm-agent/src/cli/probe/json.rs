//! Probes as JSON, a line for each, and a summary as the last one.

use std::{
    io::{self, Write},
    net::SocketAddr,
};

use serde_json::{Map, Value, json};

use super::Printer;
use crate::active::{
    offset::{Bounds, Claims, Known, Restart},
    plan::Plan,
    report::{Answered, Report, Seen, Sources},
    sender::Sender,
    statistics::{Distribution, Reordering},
    summary::{Figures, Session},
};

/// Version of the records.
pub(super) const SCHEMA: u32 = 1;

pub(super) struct Json<W> {
    out: W,
    target: SocketAddr,
    sent: Sent,
}

/// What the packets were sent with.
#[derive(Clone, Copy, Default)]
struct Sent {
    dscp: u8,
    ecn: u8,
    is_train: bool,
}

impl<W: Write> Json<W> {
    pub(super) fn new(out: W, target: SocketAddr) -> Self {
        let sent = Sent::default();
        Self { out, target, sent }
    }

    fn line(&mut self, record: &Value) -> io::Result<()> {
        writeln!(self.out, "{record}")?;
        self.out.flush()
    }
}

impl<W: Write> Printer for Json<W> {
    fn begin(&mut self, plan: &Plan) -> io::Result<()> {
        self.sent = Sent {
            dscp: plan.dscp,
            ecn: plan.ecn,
            is_train: plan.train.probes > 1,
        };
        Ok(())
    }

    fn packet(&mut self, report: &Report) -> io::Result<()> {
        let plain = |probe: &u32, result: &str| json!({"schema": SCHEMA, "type": "packet", "seq": probe, "result": result});
        let record = match report {
            Report::Answered(answered) => packet(answered, self.sent),
            Report::Lost { probe, .. } => plain(probe, "lost"),
            Report::Late { probe, .. } => plain(probe, "late"),
            Report::Duplicate { probe } => plain(probe, "duplicate"),
            Report::Unreachable { probe, error } => {
                let mut record = plain(probe, "unreachable");
                record["error"] = error.desc().into();
                record
            }
            Report::Restarted(restart) => restarted(*restart),
            Report::Numbered { .. } | Report::Train(_) => return Ok(()),
        };
        self.line(&record)
    }

    fn end(&mut self, session: &Session, sender: &Sender) -> io::Result<()> {
        let record = summary(session, sender, self.target);
        self.line(&record)
    }
}

/// Writes the record of an answered probe. What is unknown is left out.
fn packet(answered: &Answered, sent: Sent) -> Value {
    let mut record = json!({
        "schema": SCHEMA,
        "type": "packet",
        "seq": answered.probe,
        "result": "ok",
        "stamps": sources(answered.sources),
        "ttl_seen": answered.seen.ttl_forward,
        "dscp_sent": sent.dscp,
        "ecn_sent": sent.ecn,
    });
    if sent.is_train {
        record["train"] = answered.train.into();
    }
    match answered.stamps {
        Ok(stamps) => {
            record["rtt_ns"] = stamps.round_trip().into();
            record["dwell_ns"] = stamps.dwell().into();
            let ways = answered.offset.and_then(|known| known.ways(&stamps));
            if let Some([there, back]) = ways {
                record["forward_best_ns"] = there.into();
                record["backward_best_ns"] = back.into();
            }
        }
        Err(void) => record["void"] = void.as_str().into(),
    }
    if let Some(delays) = answered.delays {
        let ends = |bounds: Bounds| json!([bounds.lower, bounds.upper]);
        record["forward_ns"] = ends(delays.forward);
        record["backward_ns"] = ends(delays.backward);
    }
    if let Some(known) = answered.offset {
        record["offset_ns"] = offset(&known);
    }
    seen(&mut record, &answered.seen);
    record
}

/// Writes what the packets looked like where they arrived.
fn seen(record: &mut Value, seen: &Seen) {
    let ways = |forward: Option<u8>, backward: Option<u8>| {
        let mut ways = Map::new();
        for (way, seen) in [("forward", forward), ("backward", backward)] {
            if let Some(seen) = seen {
                ways.insert(way.to_owned(), seen.into());
            }
        }
        (!ways.is_empty()).then_some(Value::Object(ways))
    };
    for (key, value) in [
        ("dscp_seen", ways(seen.dscp_forward, seen.dscp_backward)),
        ("ecn_seen", ways(seen.ecn_forward, seen.ecn_backward)),
        ("hops", ways(seen.hops(), None)),
        ("ttl_seen_backward", seen.ttl_backward.map(Value::from)),
    ] {
        if let Some(value) = value {
            record[key] = value;
        }
    }
}

/// Writes the offset of the reflector's clock, as bounds and as a best estimate.
fn offset(known: &Known) -> Value {
    json!({
        "lower": known.bounds.lower,
        "upper": known.bounds.upper,
        "best": known.estimate.offset,
        "basis": known.estimate.basis.as_str(),
    })
}

/// Writes that what was known of the offset is so no more.
fn restarted(restart: Restart) -> Value {
    let (end, cause) = match restart {
        Restart::SetHere => (Some("sender"), "set"),
        Restart::RateHere => (Some("sender"), "rate"),
        Restart::There => (Some("reflector"), "set_or_rate"),
        Restart::Contradiction => (None, "contradiction"),
    };
    let mut record = json!({"schema": SCHEMA, "type": "clock", "cause": cause});
    if let Some(end) = end {
        record["end"] = end.into();
    }
    record
}

/// Writes what the clocks claim. Who claims nothing is left out.
fn claims(claims: Claims) -> Value {
    let mut record = Map::new();
    for (end, claim) in [("sender", claims.here), ("reflector", claims.there)] {
        if let Some(claim) = claim {
            record.insert(end.to_owned(), claim.into());
        }
    }
    record.into()
}

pub(super) fn sources(sources: Sources) -> Value {
    json!({
        "t1": sources.sent.as_str(),
        "t2": sources.reflector_received.as_str(),
        "t3": sources.reflector_sent.as_str(),
        "t4": sources.received.as_str(),
    })
}

fn summary(session: &Session, sender: &Sender, target: SocketAddr) -> Value {
    let losses = session.losses();
    let counts = session.counts();
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
        "void": session.clock + session.impossible,
        "clock": session.clock,
        "clock_restarts": session.restarts,
        "claims_refuted": session.refuted,
    });
    if counts {
        record["lost_forward"] = losses.forward.into();
        record["lost_backward"] = losses.backward.into();
    }
    if let Some([there, back]) = session.duplicated() {
        record["duplicates_forward"] = there.into();
        record["duplicates_backward"] = back.into();
    }
    if let Some([there, back]) = session.reordering() {
        record["reordered"] = (there.reordered + back.reordered).into();
        record["reordering"] =
            json!({"forward": reordering(&there), "backward": reordering(&back)});
    }
    if losses.unknown > 0 || !counts {
        record["lost"] = losses.unknown.into();
    }
    if let Some(clocks) = session.clocks {
        record["claims_ns"] = claims(clocks.claims);
        if let Some(known) = clocks.offset {
            record["offset_ns"] = offset(&known);
        }
    }
    if let Some(waited) = distribution(&sender.queueing().waited()) {
        record["queue_ns"] = waited;
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
    let basis = if class.is_unproven {
        "unproven"
    } else {
        "claim"
    };
    let way = |bounds: Option<Bounds>, best: Option<i64>| {
        let bounds = bounds?;
        let mut way = json!({"lower": bounds.lower, "upper": bounds.upper});
        if let Some(best) = best {
            way["best"] = best.into();
            way["basis"] = basis.into();
        }
        Some(way)
    };
    put(
        "forward_ns",
        way(class.forward, class.best.map(|best| best[0])),
    );
    put(
        "backward_ns",
        way(class.backward, class.best.map(|best| best[1])),
    );
    let jitter = |jitter: Option<f64>| jitter.map(|jitter| json!(jitter.round()));
    put("jitter_ns", jitter(class.jitter));
    put("jitter_backward_ns", jitter(class.jitter_backward));
    put("pdv_ns", distribution(&class.variation));
    put("pdv_backward_ns", distribution(&class.variation_backward));
    record
}

fn reordering(way: &Reordering) -> Value {
    let mut record = json!({
        "received": way.received,
        "reordered": way.reordered,
        "extent": way.extent,
    });
    if let Some(ratio) = way.ratio() {
        record["ratio"] = ratio.into();
    }
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
