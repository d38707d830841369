//! The configuration key `reflector`: whose probes the agent answers.

use std::{fmt, net::SocketAddr, path::PathBuf};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ConfigError;

/// Pattern of an entry of `reflector.allow`.
const ALLOWED: &str = "^(local|nodes|peers|[0-9a-fA-F.:]+(/[0-9]{1,3})?)$";

/// Answers per second that one client can get at most.
const RATE_MOST: u32 = 10_000_000;

/// Most addresses at which an agent answers.
const LISTEN_MOST: usize = 16;

/// The agent's answers to probes (STAMP, RFC 8762), as `lpm reflect` gives them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reflector {
    /// Addresses and ports (UDP) at which probes are answered, such as `[::]:8620`, which is IPv4,
    /// too. If empty: none is answered.
    #[schemars(with = "Vec<String>")]
    pub listen: Vec<SocketAddr>,
    /// The senders that get answers: addresses, ranges, and the words `local` (this machine by its
    /// loopback addresses), `nodes` (the addresses of this node and of the cluster's nodes, as they
    /// come and go) and `peers` (the targets of `probes`). Nobody else gets an answer. Takes effect
    /// without a restart.
    #[schemars(with = "Vec<String>", inner(regex(pattern = ALLOWED)))]
    pub allow: Vec<Allowed>,
    /// Answers per second and client.
    #[schemars(range(min = 1, max = RATE_MOST))]
    pub rate: u32,
    /// Keys of sessions. With any, only authenticated packets of these sessions are answered.
    pub keys: Vec<SessionKey>,
}

/// The key of a session of authenticated packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionKey {
    /// The session's number (SSID), which both ends use.
    #[schemars(range(min = 1, max = 65_535))]
    pub session: u16,
    /// A file with at least 32 hexadecimal digits (`openssl rand -hex 32`). A relative path starts
    /// at the configuration's directory.
    pub file: PathBuf,
}

/// An entry of `reflector.allow`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Allowed {
    /// The machine itself, by its loopback addresses.
    Local,
    /// Nodes.
    Nodes,
    /// The agent's own targets.
    Peers,
    /// A range, or one address.
    Range(IpNet),
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Nodes => f.write_str("nodes"),
            Self::Peers => f.write_str("peers"),
            Self::Range(range) => write!(f, "{range}"),
        }
    }
}

impl From<Allowed> for String {
    fn from(allowed: Allowed) -> Self {
        allowed.to_string()
    }
}

impl TryFrom<String> for Allowed {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "local" => Ok(Self::Local),
            "nodes" => Ok(Self::Nodes),
            "peers" => Ok(Self::Peers),
            range => {
                let range = range
                    .parse()
                    .or_else(|_| Ok(IpNet::from(range.parse::<std::net::IpAddr>()?)));
                range.map(Self::Range).map_err(|_: std::net::AddrParseError| {
                    format!("{text}: give local, nodes, peers, an address, or a range such as 198.18.0.0/15")
                })
            }
        }
    }
}

impl Default for Reflector {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            allow: vec![Allowed::Local, Allowed::Nodes, Allowed::Peers],
            rate: 5_000,
            keys: Vec::new(),
        }
    }
}

impl Reflector {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, value: String, remedy| Err(ConfigError::Value { key, value, remedy });
        if self.listen.len() > LISTEN_MOST {
            let listen = format!("{} addresses", self.listen.len());
            return wrong("reflector.listen", listen, "give at most 16");
        }
        for (at, address) in self.listen.iter().enumerate() {
            if address.port() == 0 {
                let remedy = "give a port, such as 8620: a sender has to know it";
                return wrong("reflector.listen", address.to_string(), remedy);
            }
            if self.listen[..at].contains(address) {
                return wrong("reflector.listen", address.to_string(), "give it once");
            }
        }
        if !(1..=RATE_MOST).contains(&self.rate) {
            return wrong(
                "reflector.rate",
                self.rate.to_string(),
                "give 1 to 10000000",
            );
        }
        for (at, key) in self.keys.iter().enumerate() {
            let session = key.session;
            if session == 0 {
                return wrong(
                    "reflector.keys",
                    "session 0".to_owned(),
                    "give a session from 1 to 65535",
                );
            }
            if self.keys[..at].iter().any(|one| one.session == session) {
                return wrong(
                    "reflector.keys",
                    format!("session {session}"),
                    "give each session once",
                );
            }
        }
        Ok(())
    }
}
