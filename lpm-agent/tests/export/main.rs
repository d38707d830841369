//! What the agent serves: metrics, flows, samples, and what a real Prometheus makes of them.

mod alert_rules;
mod foreign;
mod hostile;
mod metrics;
mod probe_schedule;
mod probes;
mod prometheus;
mod row_reuse;
mod scrape;
mod securing;
#[path = "../support/mod.rs"]
mod support;
mod verdicts;
