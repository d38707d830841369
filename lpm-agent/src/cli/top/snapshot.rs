//! Snapshots: what `lpm top` shows, as it was at one moment.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::super::{client::Agent, measuring};
use crate::{
    api::{
        json::{self, FlowRecord, LatencyRecord, LinkRecord},
        sample::SCHEMA,
    },
    identity::processes::Sockets,
    session::Session,
};

/// How often `/proc` is walked for the holders of sockets.
const SOCKETS_EVERY: Duration = Duration::from_secs(5);

/// Source of snapshots.
pub(super) enum Source {
    /// A running agent.
    Agent(Agent),
    /// Kernel programs of this process.
    Session(Box<Session>),
}

/// Flows, namespaces and links at one moment.
#[derive(Debug, Serialize)]
pub(super) struct Snapshot {
    schema: u32,
    pub(super) flows: Vec<Rated>,
    pub(super) latency: Vec<LatencyRecord>,
    pub(super) links: Vec<LinkRecord>,
    #[serde(skip)]
    taken: Instant,
    #[serde(skip)]
    sockets: Option<(Instant, Sockets)>,
}

/// A flow with its rates.
#[derive(Debug, Serialize)]
pub(super) struct Rated {
    #[serde(flatten)]
    pub(super) flow: FlowRecord,
    /// Packets per second since the last look. Absent: the flow was not there at the last look, or
    /// there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) packets_per_second: Option<f64>,
    /// Bits per second since the last look. Absent: the flow was not there at the last look, or
    /// there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bits_per_second: Option<f64>,
}

impl Source {
    /// Takes a snapshot now. Rates are relative to the last one.
    pub(super) fn look(&mut self, last: Option<&Snapshot>) -> anyhow::Result<Snapshot> {
        let taken = Instant::now();
        match self {
            Self::Agent(agent) => Ok(Snapshot {
                schema: SCHEMA,
                flows: rated(agent.list("flows?processes=true")?, taken, last),
                latency: agent.list("latency")?,
                links: agent.list("links")?,
                taken,
                sockets: None,
            }),
            Self::Session(session) => {
                let known = last.and_then(|last| last.sockets.clone());
                let known = known.filter(|(at, _)| at.elapsed() < SOCKETS_EVERY);
                let sockets = known.unwrap_or_else(|| (taken, Sockets::scan()));
                let model = measuring(session)?.model();
                let mut flows = json::flows(model, Some(&sockets.1))?;
                let links = json::links(model, &flows);
                flows.retain(|flow| flow.active);
                Ok(Snapshot {
                    schema: SCHEMA,
                    flows: rated(flows, taken, last),
                    latency: json::latencies(model),
                    links,
                    taken,
                    sockets: Some(sockets),
                })
            }
        }
    }
}

fn rated(flows: Vec<FlowRecord>, now: Instant, last: Option<&Snapshot>) -> Vec<Rated> {
    let before: HashMap<&str, &FlowRecord> = last
        .into_iter()
        .flat_map(|last| {
            last.flows
                .iter()
                .map(|rated| (rated.flow.id.as_str(), &rated.flow))
        })
        .collect();
    let seconds = last.map_or(0.0, |last| (now - last.taken).as_secs_f64());
    #[expect(
        clippy::cast_precision_loss,
        reason = "a rate, of which three digits are shown"
    )]
    let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
    flows
        .into_iter()
        .map(|flow| {
            let then = before.get(flow.id.as_str()).filter(|_| seconds > 0.0);
            Rated {
                packets_per_second: then
                    .map(|then| rate(flow.packets.total(), then.packets.total())),
                bits_per_second: then
                    .map(|then| rate(flow.bytes.total(), then.bytes.total()) * 8.0),
                flow,
            }
        })
        .collect()
}
