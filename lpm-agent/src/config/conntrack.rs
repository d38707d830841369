//! The configuration key `conntrack`: backends of services, by the kernel's connection tracking.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ConfigError;

/// Whether flows to services show their backends, which the kernel's connection tracking knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Conntrack {
    /// Flows to a service show the backend too. The kernel then reports each connection that begins
    /// or ends, as it does to `conntrack -E`. Without connection tracking no backend is shown.
    pub enabled: bool,
    /// How many connections to services are remembered; each takes about 100 bytes.
    #[schemars(range(min = 1, max = 4_194_304))]
    pub most: u32,
}

impl Default for Conntrack {
    fn default() -> Self {
        Self {
            enabled: true,
            // The default equals the number of flows. No other connection's backend is ever looked
            // up.
            most: 1 << 16,
        }
    }
}

impl Conntrack {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if (1..=1 << 22).contains(&self.most) {
            return Ok(());
        }
        Err(ConfigError::Value {
            key: "conntrack.most",
            value: self.most.to_string(),
            remedy: "give 1 to 4194304, or set conntrack.enabled: false",
        })
    }
}
