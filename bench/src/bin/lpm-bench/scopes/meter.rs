//! What an API server says that it has sent.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Context as _, Result};
use lpm_testbed::kubernetes::ApiServer;

/// Counters of a kind of objects.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Sent {
    /// Bytes of answers to lists.
    pub(crate) listed: f64,
    /// Events of watches.
    pub(crate) events: f64,
    /// Their bytes.
    pub(crate) event_bytes: f64,
}

/// By resource.
pub(crate) type Reading = BTreeMap<String, Sent>;

/// Reads the counters.
pub(crate) fn read(api: &ApiServer) -> Result<Reading> {
    let answer = api.request("GET", "/metrics", None)?;
    let text = answer.body.as_str().context("metrics are text")?;
    let mut reading = Reading::new();
    for line in text.lines() {
        let Some((series, value)) = line.rsplit_once(' ') else {
            continue;
        };
        let Some((name, labels)) = series.split_once('{') else {
            continue;
        };
        let label = |name: &str| {
            let (_, rest) = labels.split_once(&format!("{name}=\""))?;
            rest.split('"').next()
        };
        let Some(resource) = label("resource") else {
            continue;
        };
        let value: f64 = value.parse().unwrap_or_default();
        let sent = reading.entry(resource.to_owned()).or_default();
        match name {
            "apiserver_response_sizes_sum" if label("verb") == Some("LIST") => sent.listed += value,
            "apiserver_watch_events_total" => sent.events += value,
            "apiserver_watch_events_sizes_sum" => sent.event_bytes += value,
            _ => {}
        }
    }
    Ok(reading)
}

/// Reads them once nothing is sent any more.
pub(crate) fn settled(api: &ApiServer) -> Result<Reading> {
    let mut before = read(api)?;
    loop {
        thread::sleep(Duration::from_millis(700));
        let now = read(api)?;
        if now == before {
            return Ok(now);
        }
        before = now;
    }
}

/// What was sent between two readings.
pub(crate) fn between(before: &Reading, after: &Reading) -> Reading {
    let gone = |resource: &String| before.get(resource).copied().unwrap_or_default();
    let differ = |(resource, now): (&String, &Sent)| {
        let was = gone(resource);
        let sent = Sent {
            listed: now.listed - was.listed,
            events: now.events - was.events,
            event_bytes: now.event_bytes - was.event_bytes,
        };
        (resource.clone(), sent)
    };
    after.iter().map(differ).collect()
}
