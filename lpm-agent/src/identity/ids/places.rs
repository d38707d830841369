//! Nodes and zones as members of namespaces, and what is left of round trips between them when their
//! namespaces are gone.
//!
//! The series of nodes and zones are sums over all namespaces. So they outlive each namespace, and
//! must not go backwards when one is gone. A row whose namespace is gone moves to the namespace
//! [`GONE_NAMESPACE`], under a member that is only a node and a zone. It stays in the series of
//! these, and is in no other.

use std::{collections::HashSet, sync::Arc, time::Instant};

use lpm_common::layout::{NameId, NameValue, PeerKind};

use super::{
    Ids, Levels, Member,
    expiry::{GONE, is_gone},
};
use crate::identity::{GONE_NAMESPACE, OVERFLOW, UNKNOWN};

/// Where something runs. None: not told apart, or nothing that runs on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Name of the node. [`UNKNOWN`]: not known.
    pub node: Option<Arc<str>>,
    /// Name of the zone. [`UNKNOWN`]: not known.
    pub zone: Option<Arc<str>>,
}

/// The nodes and zones that exist, whatever runs there. Both sets are empty if the level is off.
#[derive(Clone, Debug, Default)]
pub struct Living {
    /// Names of nodes.
    pub nodes: HashSet<Arc<str>>,
    /// Names of zones.
    pub zones: HashSet<Arc<str>>,
}

/// A name if it is among those that live, else [`GONE`].
pub(super) fn kept(name: Option<&Arc<str>>, living: &HashSet<Arc<str>>) -> Option<Arc<str>> {
    let name = name?;
    Some(match living.get(name) {
        Some(name) => Arc::clone(name),
        None => GONE.into(),
    })
}

impl Member {
    /// True if the member has a node or a zone that lives.
    #[must_use]
    pub fn has_place(&self) -> bool {
        let mut places = [&self.node, &self.zone].into_iter().flatten();
        places.any(|name| !is_gone(Some(name)))
    }
}

impl Ids {
    /// The nodes and zones that these levels tell apart, of members that were among the names since
    /// `since`.
    #[must_use]
    pub fn living(&self, levels: &Levels, since: Instant) -> Living {
        let mut living = Living::default();
        let reserved = || [UNKNOWN, OVERFLOW].map(Arc::from);
        let members = || {
            let alive = self.by_id.iter().flat_map(move |of| of.alive(since));
            alive.map(|known| &known.member)
        };
        if levels.node {
            living.nodes.extend(reserved());
            let nodes = members().filter_map(|member| member.node.clone());
            living.nodes.extend(nodes);
        }
        if levels.zone {
            living.zones.extend(reserved());
            let zones = members().filter_map(|member| member.zone.clone());
            living.zones.extend(zones);
        }
        living
    }

    /// True if an id is of the namespace that stands for those that are gone.
    #[must_use]
    pub fn is_of_the_gone(&self, id: NameId) -> bool {
        self.by_name.get(GONE_NAMESPACE) == Some(&id.namespace())
    }

    /// The id that is left of an end of a pair when a namespace of the pair is gone: only the end's
    /// node and zone, as far as they live. Of the local end (`here`), whose node is this one, it is
    /// the zone alone. None: nothing is left, or no number is.
    pub fn left(
        &mut self,
        end: NameValue,
        here: bool,
        levels: &Levels,
        living: &Living,
    ) -> Option<NameId> {
        let is_external = PeerKind::from_raw(end.kind).is_none_or(|it| it == PeerKind::External);
        if end.id.namespace() == 0 && (here || !is_external) {
            return Some(end.id);
        }
        if is_external && !here {
            return None;
        }
        let member = self.who(end.id).unwrap_or_default();
        let overflow = || Arc::from(OVERFLOW);
        let place = |on: bool, name: &Option<Arc<str>>, living| {
            let name = on.then(|| name.clone().unwrap_or_else(overflow));
            kept(name.as_ref(), living)
        };
        let left = Member {
            workload: Some(GONE.into()),
            node: place(levels.node && !here, &member.node, &living.nodes),
            zone: place(levels.zone, &member.zone, &living.zones),
            ..Member::default()
        };
        if !here && !left.has_place() {
            return None;
        }
        let gone = self.number(GONE_NAMESPACE);
        self.known_or_given(gone, left)
    }

    fn known_or_given(&mut self, namespace: u16, member: Member) -> Option<NameId> {
        match self.of(namespace)?.by_member.get(&member) {
            Some(number) => Some(NameId::new(namespace, *number)),
            None => self.give(namespace, member),
        }
    }

    /// True if nothing is left of a remote end: neither namespace nor node nor zone.
    #[must_use]
    pub fn is_lost(&self, remote: NameId) -> bool {
        let has_place = |member: Arc<Member>| member.has_place();
        remote == NameId::GONE
            || self.is_of_the_gone(remote) && !self.who(remote).is_some_and(has_place)
    }

    /// The id that a row of the namespace of the gone should have: see [`Ids::reduce`].
    pub(super) fn reduce_of_the_gone(&mut self, id: NameId, living: &Living) -> NameId {
        let Some(member) = self.who(id) else {
            return NameId::GONE;
        };
        let left = Member {
            node: kept(member.node.as_ref(), &living.nodes),
            zone: kept(member.zone.as_ref(), &living.zones),
            ..Member::clone(&member)
        };
        if left == *member {
            return id;
        }
        self.known_or_given(id.namespace(), left).unwrap_or(id)
    }
}
