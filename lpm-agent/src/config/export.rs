//! The configuration key `export`: further forms of the metrics, and where they are served.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Further forms of the metrics, and where they are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Export {
    /// Address and port of a further listener, which serves `/metrics` only, to the clients that
    /// `auth` and `web_config` let read it. Collectors that expect another port than that of
    /// `listen` find the metrics there. If absent: there is none.
    #[schemars(with = "Option<String>", regex(pattern = r":[0-9]{1,5}$"))]
    pub listen: Option<SocketAddr>,
    /// Beside the agent's own series: those of L2S-M LPM, `net_rtt_ms_*` and `net_jitter_ms_*`, one
    /// metric for each target, so that its queries and dashboards go on working.
    pub l2sm_series: bool,
}
