//! The methods of measurement, as the configuration names them.

use lpm_common::layout;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A method that can be configured.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// TCP timestamps.
    Ts,
    /// TCP sequence numbers.
    Seq,
    /// The TCP handshake.
    Handshake,
    /// ICMP echo.
    Icmp,
    /// DNS queries.
    Dns,
    /// Requests and their whole answers, over TCP.
    Request,
}

impl Method {
    /// All methods.
    pub const ALL: [Self; 6] = [
        Self::Ts,
        Self::Seq,
        Self::Handshake,
        Self::Icmp,
        Self::Dns,
        Self::Request,
    ];

    /// The methods that are on unless the configuration says otherwise.
    pub const DEFAULT: [Self; 5] = [Self::Ts, Self::Seq, Self::Handshake, Self::Icmp, Self::Dns];

    /// The method's word in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.layout().as_str()
    }

    /// The method as the kernel programs encode it.
    #[must_use]
    pub fn layout(self) -> layout::Method {
        match self {
            Self::Ts => layout::Method::Ts,
            Self::Seq => layout::Method::Seq,
            Self::Handshake => layout::Method::Handshake,
            Self::Icmp => layout::Method::Icmp,
            Self::Dns => layout::Method::Dns,
            Self::Request => layout::Method::Request,
        }
    }
}
