//! The configuration key `pins`: a data path that outlives the agent.

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, humantime_text, schema};
use crate::kernel::detach::PINS;

/// Whether the data path outlives the agent, and where it is pinned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Pins {
    /// `lpm run` pins its maps and hooks. Packets are then measured even after it ends, and the
    /// next agent takes the maps and hooks over. `lpm detach` removes them. `lpm top` and `lpm
    /// watch` never pin.
    pub enabled: bool,
    /// A directory in a BPF file system. Only one agent at a time can use it.
    #[schemars(regex(pattern = "^/"))]
    pub path: PathBuf,
    /// How long the programs measure without an agent. After that they pass packets on without
    /// looking at them.
    #[serde(with = "humantime_text")]
    #[schemars(with = "String", regex(pattern = schema::DURATION))]
    pub keep: Duration,
}

impl Default for Pins {
    fn default() -> Self {
        Self {
            enabled: false,
            path: PINS.into(),
            keep: Duration::from_mins(10),
        }
    }
}

impl Pins {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, value: String, remedy| Err(ConfigError::Value { key, value, remedy });
        if !self.path.is_absolute() {
            let path = self.path.display().to_string();
            return wrong("pins.path", path, "give an absolute path");
        }
        // The agent gives its sign of life every two seconds.
        if !(Duration::from_secs(4)..=Duration::from_hours(24)).contains(&self.keep) {
            let keep = humantime::format_duration(self.keep).to_string();
            return wrong("pins.keep", keep, "give 4s to 24h");
        }
        Ok(())
    }
}
