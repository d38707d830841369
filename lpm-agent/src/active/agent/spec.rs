//! What one session of probes sends, and to whom: a target in one class.

use std::{net::IpAddr, ops::RangeInclusive, sync::Arc, time::Duration};

use crate::{
    active::{
        mac::{Key, KeyError},
        plan::{Plan, Train},
        schedule::{rendezvous::mix, when::Rhythm},
    },
    config::{Host, Ports, Probed, Probes, Schedule, SessionKey},
    fnv::fnv,
};

/// Longest interval of a session.
const LONGEST: Duration = Duration::from_hours(24);

/// A session as it is wanted.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Spec {
    /// The target, with what holds for all its classes.
    pub(super) probed: Arc<Probed>,
    /// DSCP of the packets.
    pub(super) class: u8,
    /// Time from train to train. It may be longer than the target asks for, to fit a budget.
    pub(super) interval: Duration,
    /// Number and key of the session. None: packets are not authenticated.
    key: Option<(u16, Key)>,
    /// How it sends.
    pub(super) manner: Manner,
}

/// How all sessions of an agent send.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Manner {
    schedule: Schedule,
    spread: f64,
    ports: Option<Ports>,
    /// Trains without an answer after which a target counts as dead. 0: never.
    pub(super) suppress_after: u16,
}

/// What a configuration wants, with its keys read.
#[derive(Clone, Debug)]
pub(super) struct Read {
    /// The configuration.
    pub(super) probes: Probes,
    /// The sessions of the list of targets.
    pub(super) specs: Vec<Spec>,
    /// Number and key of the sessions to nodes.
    pub(super) node_key: Option<(u16, Key)>,
    /// How all sessions send.
    pub(super) manner: Manner,
}

impl Read {
    /// Reads the keys of a configuration.
    ///
    /// # Errors
    /// A key cannot be read.
    pub(super) fn new(probes: &Probes) -> Result<Self, KeyError> {
        let manner = Manner {
            schedule: probes.schedule,
            spread: probes.spread_factor.get(),
            ports: probes.ports,
            suppress_after: probes.suppress_after,
        };
        let mut specs = Vec::new();
        for target in probes.probed() {
            let key = read(target.key.as_ref())?;
            specs.extend(of(&Arc::new(target), key.as_ref(), &manner));
        }
        Ok(Self {
            probes: probes.clone(),
            specs,
            node_key: read(probes.nodes.key.as_ref())?,
            manner,
        })
    }
}

/// Reads a key, if there is one.
fn read(key: Option<&SessionKey>) -> Result<Option<(u16, Key)>, KeyError> {
    let key = key.map(|key| Ok((key.session, Key::read(&key.file)?)));
    key.transpose()
}

/// The sessions to a target.
pub(super) fn of(
    probed: &Arc<Probed>,
    key: Option<&(u16, Key)>,
    manner: &Manner,
) -> impl Iterator<Item = Spec> {
    probed.classes.iter().map(move |class| Spec {
        probed: Arc::clone(probed),
        class: *class,
        interval: probed.interval,
        key: key.cloned(),
        manner: *manner,
    })
}

impl Spec {
    /// True if this session goes on as the other one. Its interval and its tags may change
    /// meanwhile.
    pub(super) fn is_same_session(&self, other: &Self) -> bool {
        self.class == other.class
            && self.key == other.key
            && self.manner == other.manner
            && (self.probed).is_same_session(&other.probed)
    }

    /// Packets per second, on average.
    pub(super) fn packets_per_second(&self) -> f64 {
        let classes = f64::from(u8::try_from(self.probed.classes.len()).unwrap_or(u8::MAX));
        self.probed.packets_per_second() / classes
    }

    /// Makes the interval so many times as long as asked for.
    pub(super) fn stretch(&mut self, times: f64) {
        let seconds = self.probed.interval.as_secs_f64() * times;
        self.interval = Duration::try_from_secs_f64(seconds).map_or(LONGEST, |it| it.min(LONGEST));
    }

    /// The address of the target, if it is given.
    pub(super) fn address(&self) -> Option<IpAddr> {
        match self.probed.host {
            Host::Address(address) => Some(address),
            Host::Name(_) => None,
        }
    }

    /// The name that must be resolved.
    pub(super) fn host(&self) -> Option<&str> {
        match &self.probed.host {
            Host::Address(_) => None,
            Host::Name(name) => Some(name),
        }
    }

    /// The address to send from, if it is one and no interface.
    pub(super) fn local_address(&self) -> Option<IpAddr> {
        self.probed.from.as_ref()?.parse().ok()
    }

    /// The ports to send from. None: any.
    pub(super) fn ports(&self) -> Option<RangeInclusive<u16>> {
        self.manner.ports.map(Ports::range)
    }

    /// A number that differs between sessions and nodes, and is always the same for one.
    pub(super) fn seed(&self, own: &str) -> u64 {
        mix(fnv(&format!("{own} {} {}", self.probed.name, self.class)))
    }

    /// The plan of a sender on this node.
    pub(super) fn plan(&self, target: IpAddr, own: &str) -> Plan {
        let probed = &self.probed;
        let from = self.local_address();
        let (session, key) = match &self.key {
            Some((session, key)) => (*session, Some(key.clone())),
            None => (fastrand::u16(1..), None),
        };
        let seed = self.seed(own);
        Plan {
            target: (target, probed.port).into(),
            from,
            interface: probed.from.clone().filter(|_| from.is_none()),
            ports: self.ports(),
            count: None,
            interval: self.interval,
            rhythm: match self.manner.schedule {
                Schedule::Periodic => Rhythm::Periodic {
                    spread: self.manner.spread,
                    seed,
                },
                Schedule::Poisson => Rhythm::Poisson { seed },
            },
            train: Train {
                probes: probed.train.packets.into(),
                spacing: probed.train.spacing,
            },
            size: probed.size.into(),
            dscp: self.class,
            ecn: 0,
            timeout: probed.timeout,
            session,
            key,
        }
    }
}
