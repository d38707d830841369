//! Finds namespaces and members that are gone from the names, for the histogram rows that are
//! labelled with them.

use std::{collections::HashSet, io, sync::PoisonError, time::Instant};

use lpm_common::layout::{Family, NameId, NameValue, PairKey, PeerKind};

use super::{LEVELS, NameIds};
use crate::{
    identity::{Levels, ids::Ids, resolver::LocalEnd},
    kernel::maps::NameMaps,
};

impl NameIds {
    /// The label sets that rows with these should have, in the same order: those of whom was not
    /// among the names, or behind an interface, since then are others.
    ///
    /// # Errors
    /// The meanings of ids cannot be stored for the next agent. Then no row may have new ones.
    pub fn reduce(
        &self,
        tables: &dyn NameMaps,
        pairs: &[PairKey],
        since: Instant,
    ) -> io::Result<Vec<PairKey>> {
        self.touch();
        let living = self.living(since);
        let mut ids = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        let left = |ids: &mut Ids, pair: PairKey| {
            if !self.levels.has_places() || pair.family() != Some(Family::Tcp) {
                return None;
            }
            let mut end = |end, here| ids.left(end, here, &self.levels, &living);
            // The local end comes second: without the remote one it would be an id for nothing.
            let remote = end(pair.remote(), false)?;
            Some(pair.with_ids(end(pair.local(), true)?, remote))
        };
        let reduced = pairs.iter().map(|pair| {
            let [local, remote] =
                [pair.local(), pair.remote()].map(|end| ids.reduce(end.id, since, &living));
            let now = if [local, remote].contains(&NameId::GONE) {
                left(&mut ids, *pair)
            } else {
                Some(pair.with_ids(local, remote)).filter(|_| !ids.is_lost(remote))
            };
            now.unwrap_or_else(|| pair.gone())
        });
        let reduced = reduced.collect();
        drop(ids);
        self.remember(tables)?;
        Ok(reduced)
    }

    /// The levels that are told apart now and were not by the last agent, whose rows go on.
    #[must_use]
    pub fn new_levels(&self) -> Levels {
        let earlier = self.earlier.get().unwrap_or(&self.levels);
        self.levels.beyond(earlier)
    }

    /// The label sets that rows with these label sets should have when the agent begins, in the
    /// same order. Counts from before a level was switched on are in no series of that level.
    ///
    /// # Errors
    /// As [`Self::reduce`].
    pub fn switched(&self, tables: &dyn NameMaps, pairs: &[PairKey]) -> io::Result<Vec<PairKey>> {
        let new = self.new_levels();
        let mut ids = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        let mut label = |end: NameValue, here: bool| {
            let is_pod = end.kind == PeerKind::Pod as u8 && end.id.namespace() != 0;
            let is_on_a_node = end.kind != PeerKind::External as u8 && end.id.namespace() != 0;
            let lacks = Levels {
                workload: new.workload && is_pod,
                service: new.service && end.kind == PeerKind::Service as u8,
                pod: new.pod && is_pod && here,
                node: new.node && !here && is_on_a_node,
                zone: new.zone && (here || is_on_a_node),
                ..new
            };
            ids.without(end.id, &lacks)
        };
        let switched = pairs.iter().map(|pair| {
            let local = label(pair.local(), true);
            pair.with_ids(local, label(pair.remote(), false))
        });
        let switched = switched.collect();
        drop(ids);
        self.remember(tables)?;
        Ok(switched)
    }

    /// Stores the levels for the next agent.
    ///
    /// # Errors
    /// The kernel's map cannot be written.
    pub fn keep_levels(&self, tables: &dyn NameMaps) -> io::Result<()> {
        if self.earlier.get() == Some(&self.levels) {
            return Ok(());
        }
        let text = serde_json::to_string(&self.levels).unwrap_or_default();
        tables.remember(LEVELS, &text)
    }

    /// True if a label set contains anything that is gone. Only the agent gives such a set to a
    /// row.
    #[must_use]
    pub fn is_reduced(&self, pair: PairKey) -> bool {
        let ids = self.ids();
        [pair.local().id, pair.remote().id]
            .into_iter()
            .any(|id| id == NameId::GONE || ids.who(id).is_some_and(|member| member.is_reduced()))
    }

    /// Releases the ids of members that were not among the names since `since` and that no row is
    /// labelled with. Returns whether others may be told apart in their place.
    pub fn release(&self, tables: &dyn NameMaps, since: Instant, borne: &HashSet<NameId>) -> bool {
        let mut ids = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        let apart = ids.release(since, borne);
        // While the lock is held, no id is given again. What cannot be forgotten now is forgotten at
        // the next release.
        let _ = ids.forget(|id| tables.forget(id));
        apart > 0
    }

    /// Marks these ids as alive, whatever the names say.
    pub fn touch_ids(&self, those: impl IntoIterator<Item = NameId>) {
        let now = Instant::now();
        let mut ids = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        for id in those {
            ids.touch(id, now);
        }
    }

    /// Marks the ids of all current names as alive.
    fn touch(&self) {
        let now = Instant::now();
        let kernel = self.in_kernel();
        let here: HashSet<NameId> = kernel.here().values().map(|value| value.id).collect();
        drop(kernel);
        let local = self.registry.local();
        let mut ids = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        for id in here {
            ids.touch(id, now);
        }
        for end in local.values() {
            let LocalEnd::Pod(name) = end else { continue };
            if let Some(namespace) = name.namespace.as_deref() {
                let member = self.member_at(name, true);
                ids.touch_member(namespace, member.as_ref(), now);
            }
        }
    }
}
