//! Sizes of the kernel's tables, and how long what is in them counts.

use std::{ops::RangeInclusive, time::Duration};

use super::{Key, Section, wrong};
use crate::config::{Config, ConfigError};

/// Entries of the flow table.
pub(in crate::config) const FLOWS: RangeInclusive<u32> = 64..=1 << 24;
/// Entries of the table of queries.
pub(in crate::config) const QUERIES: RangeInclusive<u32> = 64..=1 << 20;
/// Copies of the histograms.
pub(in crate::config) const STRIPES: RangeInclusive<u32> = 1..=64;

pub(super) const SECTION: Section = Section {
    keys: &[
        Key::cold("flows", |a, b| a.flows != b.flows),
        Key::cold("queries", |a, b| a.queries != b.queries),
        Key::cold("rows", |a, b| a.rows != b.rows),
        Key::cold("stripes", |a, b| a.stripes != b.stripes),
        Key::cold("flow_idle", |a, b| a.flow_idle != b.flow_idle),
        Key::cold("window", |a, b| a.window != b.window),
    ],
    check,
};

fn check(config: &Config) -> Result<(), ConfigError> {
    let Config {
        flows,
        queries,
        rows,
        stripes,
        ..
    } = config;
    if !flows.is_power_of_two() || !FLOWS.contains(flows) {
        let remedy = "give a power of two, 64 to 16777216";
        return wrong("flows", flows.to_string(), remedy);
    }
    if !queries.is_power_of_two() || !QUERIES.contains(queries) {
        let remedy = "give a power of two, 64 to 1048576";
        return wrong("queries", queries.to_string(), remedy);
    }
    if !(2..=65_535).contains(rows) {
        return wrong("rows", rows.to_string(), "give 2 to 65535");
    }
    if !stripes.is_power_of_two() || !STRIPES.contains(stripes) {
        let remedy = "give a power of two, at most 64";
        return wrong("stripes", stripes.to_string(), remedy);
    }
    check_duration("flow_idle", config.flow_idle)?;
    check_duration("window", config.window)
}

/// Refuses a time of less than a second or more than an hour.
pub(super) fn check_duration(key: &'static str, value: Duration) -> Result<(), ConfigError> {
    if (Duration::from_secs(1)..=Duration::from_hours(1)).contains(&value) {
        return Ok(());
    }
    let value = humantime::format_duration(value).to_string();
    wrong(key, value, "give 1s to 1h")
}
