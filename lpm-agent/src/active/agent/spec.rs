//! What one session of probes sends, and to whom: a target in one class.

use std::{net::IpAddr, sync::Arc};

use crate::{
    active::{
        mac::{Key, KeyError},
        plan::{Plan, Train},
    },
    config::{Host, Probed, Probes},
};

/// A session as the configuration wants it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Spec {
    /// The target, with what holds for all its classes.
    pub(super) probed: Arc<Probed>,
    /// DSCP of the packets.
    pub(super) class: u8,
    /// Number and key of the session. None: packets are not authenticated.
    key: Option<(u16, Key)>,
}

/// The sessions that the configuration wants.
///
/// # Errors
/// A key cannot be read.
pub(super) fn specs(probes: &Probes) -> Result<Vec<Spec>, KeyError> {
    let mut specs = Vec::new();
    for target in probes.probed() {
        let key = (target.key.as_ref())
            .map(|key| Ok((key.session, Key::read(&key.file)?)))
            .transpose()?;
        let target = Arc::new(target);
        specs.extend(target.classes.iter().map(|class| Spec {
            probed: Arc::clone(&target),
            class: *class,
            key: key.clone(),
        }));
    }
    Ok(specs)
}

impl Spec {
    /// True if this session goes on as the other one.
    pub(super) fn is_same_session(&self, other: &Self) -> bool {
        self.class == other.class
            && self.key == other.key
            && (self.probed).is_same_session(&other.probed)
    }

    /// The address of the target, if the configuration gives it.
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

    /// The plan of a sender.
    pub(super) fn plan(&self, target: IpAddr) -> Plan {
        let probed = &self.probed;
        let from = self.local_address();
        let (session, key) = match &self.key {
            Some((session, key)) => (*session, Some(key.clone())),
            None => (fastrand::u16(1..), None),
        };
        Plan {
            target: (target, probed.port).into(),
            from,
            interface: probed.from.clone().filter(|_| from.is_none()),
            count: None,
            interval: probed.interval,
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
