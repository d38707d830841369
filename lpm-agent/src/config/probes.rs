//! The configuration key `probes`: what the agent probes, and how.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, SessionKey, humantime_option, humantime_text, schema};

mod groups;
mod tags;

pub use tags::Tags;

/// Most pairs of a target and a class: each has a socket.
pub const SESSIONS: usize = 512;

/// Most bytes of a packet behind the UDP header: what fits an Ethernet jumbo frame.
const LONGEST: u16 = 9216;

/// Most characters of a target's name and of a host's name (RFC 1123).
const LONGEST_NAME: usize = 253;

/// Probes that the agent sends by itself. Each target answers at a reflector: another agent's
/// (`reflector`), `lpm reflect`, or another one that speaks STAMP (RFC 8762). Takes effect without a
/// restart. Targets that stay as they are go on, and keep their counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Probes {
    /// What is probed. If empty: nothing. At most 512 pairs of a target and a class.
    pub targets: Vec<Target>,
    /// Port of targets whose address has none.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: u16,
    /// Time from the beginning of a train to the beginning of the next one.
    #[serde(with = "humantime_text")]
    #[schemars(with = "String", regex(pattern = schema::DURATION))]
    pub interval: Duration,
    /// The packets of a measurement. Several packets bound a one-way delay better than one.
    pub train: Train,
    /// DSCP of the packets, 0 to 63. Each class is a session of its own, with series of its own.
    #[schemars(length(min = 1, max = 8), inner(range(max = 63)))]
    pub classes: Vec<u8>,
    /// Time after which a packet without an answer is lost.
    #[serde(with = "humantime_text")]
    #[schemars(with = "String", regex(pattern = schema::DURATION))]
    pub timeout: Duration,
    /// Bytes of a packet behind the UDP header. Fewer than a packet needs become as many as it
    /// needs.
    #[schemars(range(max = LONGEST))]
    pub size: u16,
    /// Interface or address to send from. If absent: the routing chooses.
    pub from: Option<String>,
    /// Names of tags, such as `[rack, zone]`, by whose values targets are put together in
    /// `lpm_probe_group_packets_total` and `lpm_probe_group_rtt_seconds`. At most 4 tags, with 32
    /// values each; further values are counted as `overflow`.
    #[schemars(length(max = 4), inner(length(min = 1)))]
    pub groups: Vec<String>,
}

/// The packets of one measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Train {
    /// How many packets.
    #[schemars(range(min = 1, max = 1000))]
    pub packets: u16,
    /// Time between two packets.
    #[serde(with = "humantime_text")]
    #[schemars(with = "String", regex(pattern = schema::DURATION))]
    pub spacing: Duration,
}

/// A target of probes. What it does not say is as for all targets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Target {
    /// An address or a host's name, with a port or without: `198.18.1.2`, `[fd00::2]:8620`,
    /// `node-2:8620`. A name is looked up again each minute.
    #[schemars(length(min = 1))]
    pub address: String,
    /// Name of the target in the label `target_node`. A host's name can be left out. An address
    /// needs a name, because metrics name no address.
    pub name: Option<String>,
    /// The key of the session. If absent: packets are not authenticated.
    pub key: Option<SessionKey>,
    /// In place of `probes.interval`.
    #[serde(with = "humantime_option")]
    #[schemars(with = "Option<String>", regex(pattern = schema::DURATION))]
    pub interval: Option<Duration>,
    /// In place of `probes.train`.
    pub train: Option<Train>,
    /// In place of `probes.classes`.
    #[schemars(
        with = "Option<Vec<u8>>",
        length(min = 1, max = 8),
        inner(range(max = 63))
    )]
    pub classes: Option<Vec<u8>>,
    /// In place of `probes.timeout`.
    #[serde(with = "humantime_option")]
    #[schemars(with = "Option<String>", regex(pattern = schema::DURATION))]
    pub timeout: Option<Duration>,
    /// In place of `probes.size`.
    #[schemars(range(max = LONGEST))]
    pub size: Option<u16>,
    /// In place of `probes.from`.
    pub from: Option<String>,
    /// What else is known of the target, such as `{zone: a, rack: "01"}`. At most 16 tags, named as
    /// labels, with values of 1 to 253 bytes. Shown in `/api/v1/probes`.
    #[schemars(extend("maxProperties" = tags::MOST))]
    pub tags: Tags,
}

/// Where a target is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// At this address.
    Address(IpAddr),
    /// Where the resolver says that this name is.
    Name(String),
}

/// A target with everything that holds for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// Name in the label `target_node`.
    pub name: String,
    /// The target's machine.
    pub host: Host,
    /// The reflector's port.
    pub port: u16,
    /// The session's key.
    pub key: Option<SessionKey>,
    /// Time from train to train.
    pub interval: Duration,
    /// The packets of a measurement.
    pub train: Train,
    /// DSCP of each session.
    pub classes: Vec<u8>,
    /// Time after which a packet is lost.
    pub timeout: Duration,
    /// Bytes of a packet.
    pub size: u16,
    /// Interface or address to send from.
    pub from: Option<String>,
    /// What else is known of the target. They change nothing of what is sent.
    pub tags: Arc<Tags>,
}

impl Default for Train {
    fn default() -> Self {
        Self {
            packets: 20,
            spacing: Duration::from_millis(1),
        }
    }
}

impl Default for Probes {
    fn default() -> Self {
        Self {
            targets: Vec::new(),
            port: 8620,
            interval: Duration::from_secs(5),
            train: Train::default(),
            classes: vec![0],
            timeout: Duration::from_secs(1),
            size: 0,
            from: None,
            groups: Vec::new(),
        }
    }
}

/// Parts `host`, `host:port`, `address` and `[address]:port`. None: it is none of these.
fn parted(text: &str, port: u16) -> Option<(Host, u16)> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some((Host::Address(address.to_canonical()), port));
    }
    if let Ok(address) = text.parse::<std::net::SocketAddr>() {
        let has_port = address.port() != 0;
        return has_port.then(|| (Host::Address(address.ip().to_canonical()), address.port()));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0)?),
        None => (text, port),
    };
    let is_named = (1..=LONGEST_NAME).contains(&host.len())
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    is_named.then(|| (Host::Name(host.to_owned()), port))
}

impl Probes {
    /// The targets with everything that holds for them. One whose address is none, or that has no
    /// name, is left out: [`Probes::check`] refuses it.
    #[must_use]
    pub fn probed(&self) -> Vec<Probed> {
        self.targets
            .iter()
            .filter_map(|target| self.of(target).ok())
            .collect()
    }

    /// Everything that holds for a target. The error says what it lacks.
    fn of(&self, target: &Target) -> Result<Probed, &'static str> {
        let parted = parted(&target.address, self.port);
        let (host, port) = parted.ok_or(
            "give an address or a host's name as `address`, with a port or without: 198.18.1.2, [fd00::2]:8620, node-2:8620",
        )?;
        let name = match (&target.name, &host) {
            (Some(name), _) | (None, Host::Name(name)) => name.clone(),
            (None, Host::Address(_)) => return Err("give it a `name`: metrics name no address"),
        };
        Ok(Probed {
            name,
            host,
            port,
            key: target.key.clone(),
            interval: target.interval.unwrap_or(self.interval),
            train: target.train.unwrap_or(self.train),
            classes: target
                .classes
                .clone()
                .unwrap_or_else(|| self.classes.clone()),
            timeout: target.timeout.unwrap_or(self.timeout),
            size: target.size.unwrap_or(self.size),
            from: target.from.clone().or_else(|| self.from.clone()),
            tags: Arc::new(target.tags.clone()),
        })
    }

    /// Checks the values for all targets, and then each target.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, value: String, remedy| Err(ConfigError::Value { key, value, remedy });
        if self.port == 0 {
            return wrong("probes.port", "0".to_owned(), "give 1 to 65535");
        }
        groups::check(&self.groups)?;
        let all = Target {
            address: "all".to_owned(),
            ..Target::default()
        };
        if let Ok(probed) = self.of(&all)
            && let Err((key, value, remedy)) = probed.check()
        {
            return wrong(key, value, remedy);
        }
        let mut names = std::collections::HashSet::new();
        let mut sessions = 0;
        for target in &self.targets {
            let of = |what: &str| {
                format!(
                    "{:?}{what}",
                    target.name.as_ref().unwrap_or(&target.address)
                )
            };
            let probed = match self.of(target) {
                Ok(probed) => probed,
                Err(remedy) => return wrong("probes.targets", of(""), remedy),
            };
            let is_name = (1..=LONGEST_NAME).contains(&probed.name.len())
                && !probed.name.chars().any(char::is_control);
            if !is_name {
                return wrong(
                    "probes.targets",
                    of(""),
                    "give a name of 1 to 253 characters",
                );
            }
            if !names.insert(probed.name.clone()) {
                return wrong("probes.targets", of(" twice"), "give each name once");
            }
            if let Err((tag, remedy)) = tags::check(&target.tags) {
                return wrong("probes.targets", of(&format!(" with {tag}")), remedy);
            }
            if let Err((key, value, remedy)) = probed.check() {
                let key = key.trim_start_matches("probes.");
                return wrong(
                    "probes.targets",
                    of(&format!(" with {key} {value}")),
                    remedy,
                );
            }
            sessions += probed.classes.len();
        }
        if sessions > SESSIONS {
            let remedy = "give at most 512 pairs of a target and a class";
            return wrong("probes.targets", format!("{sessions} sessions"), remedy);
        }
        Ok(())
    }

    /// The files that the agent reads.
    pub(crate) fn files(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let keys = self
            .targets
            .iter_mut()
            .filter_map(|target| target.key.as_mut());
        keys.map(|key| &mut key.file)
    }
}

impl Probed {
    /// True if a session of the other goes on as one of this: they differ in their tags at most.
    #[must_use]
    pub fn is_same_session(&self, other: &Self) -> bool {
        let tags = Arc::clone(&other.tags);
        self.name == other.name
            && Self {
                tags,
                ..self.clone()
            } == *other
    }

    /// What cannot work: the key, its value, and the remedy.
    fn check(&self) -> Result<(), (&'static str, String, &'static str)> {
        let text = |time| humantime::format_duration(time).to_string();
        let Train { packets, spacing } = self.train;
        if !(1..=1000).contains(&packets) {
            return Err((
                "probes.train",
                format!("{packets} packets"),
                "give 1 to 1000 packets",
            ));
        }
        if !(Duration::from_micros(100)..=Duration::from_secs(1)).contains(&spacing) {
            return Err((
                "probes.train",
                format!("spacing {}", text(spacing)),
                "give a spacing of 100us to 1s",
            ));
        }
        if !(Duration::from_millis(100)..=Duration::from_hours(24)).contains(&self.interval) {
            return Err(("probes.interval", text(self.interval), "give 100ms to 24h"));
        }
        if spacing * u32::from(packets) > self.interval {
            let remedy =
                "give an interval that is at least as long as the train: packets times spacing";
            return Err(("probes.interval", text(self.interval), remedy));
        }
        if !(Duration::from_millis(10)..=Duration::from_mins(1)).contains(&self.timeout) {
            return Err(("probes.timeout", text(self.timeout), "give 10ms to 1m"));
        }
        let mut classes = self.classes.clone();
        classes.sort_unstable();
        classes.dedup();
        let is_good = (1..=8).contains(&classes.len())
            && classes.len() == self.classes.len()
            && classes.iter().all(|class| *class < 64);
        if !is_good {
            let remedy = "give one to eight different values from 0 to 63";
            return Err(("probes.classes", format!("{:?}", self.classes), remedy));
        }
        if self.size > LONGEST {
            return Err(("probes.size", self.size.to_string(), "give at most 9216"));
        }
        if self.key.as_ref().is_some_and(|key| key.session == 0) {
            return Err((
                "probes.key",
                "session 0".to_owned(),
                "give a session from 1 to 65535",
            ));
        }
        if let (Some(from), Host::Address(address)) = (&self.from, &self.host)
            && from
                .parse::<IpAddr>()
                .is_ok_and(|from| from.is_ipv4() != address.is_ipv4())
        {
            return Err((
                "probes.from",
                from.clone(),
                "give an address of the target's family",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
