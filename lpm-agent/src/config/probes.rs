//! The configuration key `probes`: what the agent probes, and how.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{SessionKey, humantime_option, humantime_text, schema};

mod check;
mod groups;
mod nodes;
mod schedule;
mod tags;

pub use nodes::ProbedNodes;
pub use schedule::{Ports, Schedule, Share};
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
    /// What is probed. At most 512 pairs of a target and a class, those of `nodes` included. A
    /// target with the name of this node is left out, so all nodes can have the same list.
    pub targets: Vec<Target>,
    /// The agents of the cluster's other nodes as further targets. Off unless told.
    pub nodes: ProbedNodes,
    /// Port of targets whose address has none.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: u16,
    /// Time from the beginning of a train to the beginning of the next one.
    #[serde(with = "humantime_text")]
    #[schemars(with = "String", regex(pattern = schema::DURATION))]
    pub interval: Duration,
    /// The rhythm of trains: `periodic`, or `poisson` (exponential gaps, RFC 2330).
    pub schedule: Schedule,
    /// The share by which periodic intervals vary, from 0 to 1: with 0.2 each is 0.8 to 1.2 times
    /// `interval`. So agents do not send in step.
    #[schemars(with = "f64", range(min = 0.0, max = 1.0))]
    pub spread_factor: Share,
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
    /// Ports that the probes are sent from, such as `40000-40511`. Each pair of a target and a class
    /// takes one. If absent: any free port.
    #[schemars(
        with = "Option<String>",
        regex(pattern = "^[0-9]{1,5} ?- ?[0-9]{1,5}$")
    )]
    pub ports: Option<Ports>,
    /// Most packets per second that all probes of this agent take together, on average. What the
    /// list of targets takes must fit. What nodes take beyond that lengthens their intervals. If
    /// absent: no limit.
    #[schemars(range(min = 1))]
    pub packets_per_second: Option<u32>,
    /// Trains without any answer after which a target counts as dead. It then gets single packets,
    /// at intervals that grow up to 60 s, and what is lost of them is counted as `suppressed`. Its
    /// first answer ends that. 0: never.
    pub suppress_after: u16,
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
            nodes: ProbedNodes::default(),
            port: 8620,
            interval: Duration::from_secs(5),
            schedule: Schedule::default(),
            spread_factor: Share::FIFTH,
            train: Train::default(),
            classes: vec![0],
            timeout: Duration::from_secs(1),
            size: 0,
            from: None,
            groups: Vec::new(),
            ports: None,
            packets_per_second: None,
            suppress_after: 5,
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

    /// A node of the cluster with everything that holds for it.
    #[must_use]
    pub fn node(&self, name: &str, address: IpAddr, tags: Tags) -> Probed {
        Probed {
            name: name.to_owned(),
            host: Host::Address(address),
            port: self.port,
            key: self.nodes.key.clone(),
            interval: self.interval,
            train: self.train,
            classes: self.classes.clone(),
            timeout: self.timeout,
            size: self.size,
            from: self.from.clone(),
            tags: Arc::new(tags),
        }
    }

    /// The keys of sessions.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &SessionKey> {
        let targets = self.targets.iter().filter_map(|target| target.key.as_ref());
        targets.chain(&self.nodes.key)
    }

    /// The files that the agent reads.
    pub(crate) fn files(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let targets = self.targets.iter_mut();
        let keys = targets.filter_map(|target| target.key.as_mut());
        keys.chain(&mut self.nodes.key).map(|key| &mut key.file)
    }
}

impl Probed {
    /// Packets per second of all classes together, on average. A train of several packets has one
    /// more, which fetches the last time of sending; one of a single packet has it, too, unless the
    /// next one is near.
    #[must_use]
    pub fn packets_per_second(&self) -> f64 {
        let packets = f64::from(self.train.packets) + 1.0;
        let classes = f64::from(u8::try_from(self.classes.len()).unwrap_or(u8::MAX));
        packets * classes / self.interval.as_secs_f64()
    }

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
}

#[cfg(test)]
mod tests;
