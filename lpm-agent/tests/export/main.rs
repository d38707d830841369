//! What the agent serves: metrics, flows, samples, and what a real Prometheus makes of them.

mod alert_rules;
mod hostile;
mod metrics;
mod probes;
mod prometheus;
mod row_reuse;
mod scrape;
mod securing;
#[path = "../support/mod.rs"]
mod support;
mod verdicts;
