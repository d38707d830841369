//! Where health checks are served.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A listener for health checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    /// Address and port of a second listener, which serves `/healthz` and `/readyz` only. Its
    /// connections are its own, so clients of `listen` cannot keep a kubelet's probes out. Give a
    /// loopback address, such as 127.0.0.1:9478. If absent: health checks share `listen`.
    #[schemars(with = "Option<String>", regex(pattern = r":[0-9]{1,5}$"))]
    pub listen: Option<SocketAddr>,
}
