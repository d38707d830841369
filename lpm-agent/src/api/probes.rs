//! JSON records of the agent's own probes, for `/api/v1/probes`, and of its links, for
//! `/api/v1/diagnosis`.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use crate::{
    active::{
        agent::figures::{Estimated, Figures, Link, SessionFigures, Shown},
        verdict::Grounds,
    },
    passive::Counts,
};

/// A target in one class. What was not measured is absent.
#[derive(Debug, Serialize)]
pub(super) struct ProbeRecord {
    target: String,
    protocol: &'static str,
    dscp: u8,
    /// What the configuration, or the cluster, says of the target.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, String>,
    /// Probes by result.
    packets: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt_ns: Option<RoundTrips>,
    #[serde(skip_serializing_if = "Option::is_none")]
    forward_ns: Option<Estimate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backward_ns: Option<Estimate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jitter_ns: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hops: Option<u8>,
    /// Packets that a later one overtook, there and back.
    reordered: [u64; 2],
    /// The target's clock less this machine's.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset_ns: Option<Estimate>,
    /// When the last answer came (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    last_success: Option<String>,
    /// Time from train to train now, around which it varies.
    interval_ns: u64,
    /// How many times longer that is than asked for, so that all nodes fit the budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    stretch: Option<f64>,
    /// Since when the target counts as dead (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    suppressed_since: Option<String>,
    /// Why the target is not probed now.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The verdict of this class alone, and on what grounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<VerdictRecord>,
}

/// A verdict of one class.
#[derive(Debug, Serialize)]
struct VerdictRecord {
    verdict: &'static str,
    grounds: Grounds,
}

/// The link to a target, over all its classes.
#[derive(Debug, Serialize)]
pub(super) struct LinkRecord {
    source_node: String,
    target_node: String,
    verdict: &'static str,
    /// When the verdict was named (RFC 3339).
    since: String,
    /// The grounds in a sentence.
    explanation: String,
    grounds: Grounds,
}

/// All links on which there are grounds for a verdict, by name.
pub(super) fn links(figures: &Figures) -> Vec<LinkRecord> {
    let links = figures.links().into_iter();
    let record = |(target, link): (_, Link)| LinkRecord {
        source_node: figures.node.to_string(),
        target_node: Arc::<str>::to_string(&target),
        verdict: link.verdict.as_str(),
        since: humantime::format_rfc3339_millis(link.since).to_string(),
        explanation: link.grounds.explain(),
        grounds: link.grounds,
    };
    links.map(record).collect()
}

/// Round trips since the target is probed. Percentiles are upper bounds of the histogram's buckets,
/// 9 % wide.
#[derive(Debug, Serialize)]
struct RoundTrips {
    count: u64,
    mean: u64,
    p50: u64,
    p99: u64,
}

/// Bounds and the best estimate within them.
#[derive(Debug, Serialize)]
struct Estimate {
    lower: i64,
    upper: i64,
    best: i64,
}

impl From<Estimated> for Estimate {
    fn from(of: Estimated) -> Self {
        Self {
            lower: of.bounds.lower,
            upper: of.bounds.upper,
            best: of.best,
        }
    }
}

impl RoundTrips {
    /// None: nothing was measured.
    fn of(counts: &Counts) -> Option<Self> {
        Some(Self {
            count: counts.count(),
            mean: nanoseconds(counts.mean()?),
            p50: nanoseconds(counts.quantile(0.5)?),
            p99: nanoseconds(counts.quantile(0.99)?),
        })
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn text(time: SystemTime) -> String {
    humantime::format_rfc3339_nanos(time).to_string()
}

/// All targets, in the configuration's order.
pub(super) fn records(figures: &Figures) -> Vec<ProbeRecord> {
    let sessions = figures.sessions();
    let record = |session: &Shown| record(session, session.figures().clone());
    sessions.iter().map(|session| record(session)).collect()
}

fn record(session: &Shown, of: SessionFigures) -> ProbeRecord {
    let [forward, backward] = match of.ways {
        Some(ways) => ways.map(|way| Some(way.into())),
        None => [None, None],
    };
    let outcomes = of.outcomes.iter();
    ProbeRecord {
        target: session.target.to_string(),
        protocol: "stamp",
        dscp: session.class,
        tags: session.tags().as_ref().clone(),
        packets: outcomes
            .map(|(outcome, count)| (outcome.as_str(), *count))
            .collect(),
        rtt_ns: RoundTrips::of(&of.round_trips),
        forward_ns: forward,
        backward_ns: backward,
        jitter_ns: of.jitter,
        hops: of.hops,
        reordered: of.reordered,
        offset_ns: of.offset.map(Into::into),
        last_success: of.answered.map(text),
        interval_ns: nanoseconds(of.interval),
        stretch: of.stretch,
        suppressed_since: of.suppressed_since.map(text),
        error: of.error,
        verdict: session.judgement().map(|judgement| VerdictRecord {
            verdict: judgement.verdict.as_str(),
            grounds: judgement.grounds,
        }),
    }
}
