//! The configuration key `role`: what an agent does.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What `lpm run` does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It measures packets by kernel programs. It also probes and answers probes, if `probes` and
    /// `reflector` say so.
    #[default]
    Agent,
    /// It only probes and answers probes. It loads no kernel program and needs no privilege.
    Prober,
}
