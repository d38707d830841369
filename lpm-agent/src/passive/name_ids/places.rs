//! Nodes and zones of the ends of flows, where these levels are switched on.

use std::sync::{Arc, PoisonError};

use lpm_common::layout::NameId;

use super::NameIds;
use crate::identity::{
    Member, Name, UNKNOWN,
    ids::{Living, Place},
    names_file::Kind,
};

impl NameIds {
    /// The member that this name is within its namespace; see [`crate::identity::Levels::member`].
    pub(super) fn member_at(&self, name: &Name, here: bool) -> Option<Member> {
        self.levels.member(name, here, self.place(name, here))
    }

    /// The place of whoever has this name. `here`: an interface of this node names it. A service
    /// has none of its own: its backends have.
    pub(super) fn place(&self, name: &Name, here: bool) -> Place {
        if !self.levels.has_places() || name.kind == Kind::External {
            return Place::default();
        }
        let own = || self.registry.node().filter(|_| here || name.own);
        let node = name.node.as_ref().or_else(own);
        let zone = node.and_then(|node| self.registry.zones().get(node).cloned());
        let unknown = || Arc::from(UNKNOWN);
        Place {
            node: Some(node.cloned().unwrap_or_else(unknown)),
            zone: Some(zone.unwrap_or_else(unknown)),
        }
    }

    /// Takes over the nodes' zones as the registry has them now. Returns whether the names' ids
    /// depend on any change among them.
    pub(super) fn follow_zones(&self) -> bool {
        if !self.levels.zone {
            return false;
        }
        let now = self.registry.zones();
        let mut zones = self.zones.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *zones, now);
        *before != **zones
    }

    /// The nodes and zones that live: those of names that were there since `since`, and all that
    /// the registry knows.
    pub(super) fn living(&self, since: std::time::Instant) -> Living {
        let mut living = self.ids().living(&self.levels, since);
        if self.levels.node {
            living.nodes.extend(self.registry.node_names());
        }
        if self.levels.zone {
            living.zones.extend(self.registry.zones().values().cloned());
        }
        living
    }

    /// True if an id stands for a namespace that is gone, while its nodes and zones live.
    #[must_use]
    pub fn is_of_the_gone(&self, id: NameId) -> bool {
        self.ids().is_of_the_gone(id)
    }
}
