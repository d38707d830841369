//! Who is gone from the names, for rows of histograms that bear them.

use std::{collections::HashSet, io, sync::PoisonError, time::Instant};

use lpm_common::layout::{NameId, PairKey};

use super::Directory;
use crate::{identity::whose::LocalEnd, passive::Tables};

impl Directory {
    /// The label sets that rows with these should have, in the same order: those of whom was not
    /// among the names, or behind an interface, since then are others.
    ///
    /// # Errors
    /// What ids stand for cannot be kept for the next agent; no row may bear new ones.
    pub fn reduce(
        &self,
        tables: &dyn Tables,
        pairs: &[PairKey],
        since: Instant,
    ) -> io::Result<Vec<PairKey>> {
        self.touch();
        let mut ids = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        let reduced = pairs.iter().map(|pair| {
            let local = ids.reduce(pair.local().id, since);
            let remote = ids.reduce(pair.remote().id, since);
            if [local, remote].contains(&NameId::GONE) {
                pair.gone()
            } else {
                pair.with_ids(local, remote)
            }
        });
        let reduced = reduced.collect();
        drop(ids);
        self.remember(tables)?;
        Ok(reduced)
    }

    /// Whether a label set bears anything that is gone: only the agent gives it to a row.
    #[must_use]
    pub fn is_reduced(&self, pair: PairKey) -> bool {
        let ids = self.ids();
        [pair.local().id, pair.remote().id]
            .into_iter()
            .any(|id| id == NameId::GONE || ids.who(id).is_some_and(|member| member.is_reduced()))
    }

    /// Gives up the ids of those who were not among the names since then and whom no row bears.
    /// Returns whether others may be told apart in their place.
    pub fn release(&self, since: Instant, borne: &HashSet<NameId>) -> bool {
        let mut ids = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        ids.release(since, borne) > 0
    }

    /// Notes who is there now.
    fn touch(&self) {
        let now = Instant::now();
        let kernel = self.in_kernel();
        let here: HashSet<NameId> = kernel.here().values().map(|value| value.id).collect();
        drop(kernel);
        let local = self.local();
        let mut ids = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        for id in here {
            ids.touch(id, now);
        }
        for end in local.values() {
            let LocalEnd::Pod(name) = end else { continue };
            if let Some(namespace) = name.namespace.as_deref() {
                let member = self.levels.member(name, true);
                ids.touch_member(namespace, member.as_ref(), now);
            }
        }
    }
}
