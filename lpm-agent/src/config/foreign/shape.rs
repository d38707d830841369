//! Tells by a file's keys which system it is of.

use std::net::IpAddr;

use super::Kind;
use crate::config::Config;

/// Keys of L2S-M LPM's configuration, of which each file has one at least. In small letters: Go's
/// decoder, which its own agent uses, ignores the case.
const L2SM: [&str; 2] = ["nodename", "metricsneighbournodes"];

/// Keys of LLAMA's configuration.
const LLAMA: [&str; 7] = [
    "summarization",
    "api",
    "ports",
    "port_groups",
    "rate_limits",
    "tests",
    "targets",
];

/// The system that a file is of, and the first key that says so.
pub(super) struct Shape {
    pub(super) kind: Kind,
    pub(super) key: String,
    pub(super) line: u64,
}

impl Shape {
    /// The shape of a file with these keys and lines. None: it is of no other system.
    pub(super) fn of(keys: &[(String, u64)]) -> Option<Self> {
        let first = |kind, is: &dyn Fn(&str) -> bool, least: usize| {
            let mut found = keys.iter().filter(|(key, _)| is(key));
            let (key, line) = found.next()?;
            // One key alone may be a slip in a file of ours.
            (found.count() + 1 >= least).then(|| Self {
                kind,
                key: key.clone(),
                line: *line,
            })
        };
        let is_l2sm = |key: &str| L2SM.contains(&key.to_ascii_lowercase().as_str());
        let is_address = |key: &str| key.parse::<IpAddr>().is_ok();
        first(Kind::L2sm, &is_l2sm, 1)
            .or_else(|| first(Kind::Llama, &|key| LLAMA.contains(&key), 2))
            .or_else(|| first(Kind::LlamaLegacy, &is_address, 1))
            .or_else(|| first(Kind::L2smChart, &|key| key == "global", 1))
    }
}

/// The first key that is this system's own.
pub(super) fn own(keys: &[(String, u64)]) -> Option<(&str, u64)> {
    let schema = Config::schema();
    let own = schema.get("properties")?.as_object()?;
    let mut found = keys.iter().filter(|(key, _)| own.contains_key(key));
    found.next().map(|(key, line)| (key.as_str(), *line))
}
