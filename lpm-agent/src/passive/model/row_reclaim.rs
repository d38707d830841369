//! Row reclaim: histogram rows of namespaces and members that are gone are made free for others.
//!
//! A row may be counted in several series, of which some live on ([`crate::identity::ids`]). So the
//! row is relabelled without what is gone. It leaves the series that need the lost name. It stays
//! in the others, which never go backwards. The kernel does not find the row any more, so a name
//! that comes back begins with another row, at zero. If two rows have the same label then, one is
//! added to the other and becomes free.
//!
//! Nothing may be counted in a row after that. Flows and queries remember their row, and a program
//! may have read it a moment ago. So there are three passes, each after all programs that ran at
//! the one before have ended. The first relabels the row. The second tells the flows the other row.
//! The third empties the row, if no flow or query named it in between.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::Entry},
    io,
    sync::{PoisonError, atomic::Ordering},
    time::Instant,
};

use lpm_common::{
    layout::{PairKey, Phase},
    rows::CLAIM,
};

use super::{Model, OVERFLOW_ROW, place};
use crate::{kernel::maps::PER_ROW, passive::window::claim};

/// Rows that are being added to others.
#[derive(Debug, Default)]
pub(super) struct RowReclaim {
    /// The target row of each, and whether the flows have been told.
    rows: HashMap<usize, (usize, bool)>,
}

impl Model {
    /// Reclaims the rows of names that were not among the names since `since`. Call it again and
    /// again: each row takes three passes.
    ///
    /// # Errors
    /// One of the kernel's maps cannot be written. The rest is done at the next pass.
    pub fn recycle(&self, since: Instant) -> io::Result<()> {
        // No other thread counts in rows or takes them from entries meanwhile.
        let windows = self.windows();
        self.ids.touch_ids(self.backends.ids());
        let relabelled = self.relabel(since)?;
        let merged = self.merge();
        drop(windows);
        let borne: HashSet<_> = self
            .labelled()
            .flat_map(|(_, pair)| [pair.local().id, pair.remote().id])
            .collect();
        let released = self.ids.release(&*self.tables, since, &borne);
        if relabelled || released {
            // Flows look up their rows again. Members that were not told apart may get an id.
            self.ids.rename(&*self.tables);
        }
        merged
    }

    /// Rows with label sets, and the label sets.
    fn labelled(&self) -> impl Iterator<Item = (usize, PairKey)> {
        (OVERFLOW_ROW + 1..self.used_rows()).filter_map(|row| Some((row, self.row_pair(row)?)))
    }

    /// Relabels the rows of the last agent before the first name is set. Counts from before a level
    /// was switched on are in no series of that level, and go on in those of the others.
    ///
    /// # Errors
    /// One of the kernel's maps cannot be written.
    pub fn begin_levels(&self) -> io::Result<()> {
        if self.ids.new_levels().any() {
            let relabelled = self.relabel_as(|pairs| self.ids.switched(&*self.tables, pairs))?;
            if relabelled {
                self.ids.rename(&*self.tables);
            }
        }
        self.ids.keep_levels(&*self.tables)
    }

    /// Removes the names of what is gone from its rows. Returns whether there were any.
    fn relabel(&self, since: Instant) -> io::Result<bool> {
        self.relabel_as(|pairs| self.ids.reduce(&*self.tables, pairs, since))
    }

    /// Gives rows other label sets than they have. Returns whether any has changed.
    fn relabel_as(
        &self,
        others: impl FnOnce(&[PairKey]) -> io::Result<Vec<PairKey>>,
    ) -> io::Result<bool> {
        let (rows, pairs): (Vec<_>, Vec<_>) = self.labelled().unzip();
        let wanted = others(&pairs)?;
        let _nobody_reads = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        let mut any = false;
        for ((row, pair), wanted) in rows.into_iter().zip(pairs).zip(wanted) {
            if pair == wanted {
                continue;
            }
            // First, the row must not be found any more.
            self.tables.forget_pair(pair)?;
            if let Some(row) = self.tables.row(row) {
                row.pair.store(wanted.0, Ordering::Release);
            }
            any = true;
        }
        Ok(any)
    }

    /// Rows that have the label set of another row, and that row. It considers only label sets that
    /// the agent alone gives.
    fn doubles(&self) -> BTreeMap<usize, usize> {
        let mut first: HashMap<PairKey, usize> = HashMap::new();
        let mut doubles = BTreeMap::new();
        for (row, pair) in self.labelled() {
            match first.entry(pair) {
                Entry::Vacant(vacant) if self.ids.is_reduced(pair) => {
                    vacant.insert(row);
                }
                Entry::Vacant(_) => {}
                Entry::Occupied(into) => drop(doubles.insert(row, *into.get())),
            }
        }
        doubles
    }

    /// Continues with rows that have the label set of another row.
    fn merge(&self) -> io::Result<()> {
        let doubles = self.doubles();
        let mut merging = self.merging.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut merging.rows);
        if doubles.is_empty() {
            return Ok(());
        }
        self.tables.quiesce()?;
        let was = |row: &usize, into: &usize| before.get(row).filter(|(to, _)| to == into);
        let known = doubles
            .iter()
            .filter(|(row, into)| was(row, into).is_some());
        let named = self.redirect(&known.map(|(row, into)| (*row, *into)).collect());
        for (row, into) in doubles {
            let was = was(&row, &into);
            if was.is_some_and(|(_, told)| *told) && !named.contains(&row) {
                self.add(row, into);
                self.give_back(row)?;
            } else {
                merging.rows.insert(row, (into, was.is_some()));
            }
        }
        Ok(())
    }

    /// Tells flows that name one of these rows the other one. Returns the rows that any flow or
    /// query named.
    fn redirect(&self, rows: &HashMap<usize, usize>) -> HashSet<usize> {
        let mut named = HashSet::new();
        if rows.is_empty() {
            return named;
        }
        for index in 0..self.tables.flow_count() {
            let Some(entry) = self.tables.flow(index) else {
                break;
            };
            let word = entry.row.load(Ordering::Relaxed);
            let row = (word & 0xffff) as usize;
            let Some(into) = rows.get(&row).and_then(|into| u32::try_from(*into).ok()) else {
                continue;
            };
            named.insert(row);
            // The word has no generation, so the flow looks up its row at its next sample. If the
            // kernel has just done so, its word stays.
            let _ = entry
                .row
                .compare_exchange(word, into, Ordering::AcqRel, Ordering::Relaxed);
        }
        // Those are answered, or counted as unanswered, within seconds.
        for index in 0..self.tables.query_count() {
            let Some(entry) = self.tables.query(index) else {
                break;
            };
            let row = entry.row.load(Ordering::Relaxed) as usize;
            let open = Phase::of(entry.state.load(Ordering::Relaxed)) == Phase::Open;
            if open && rows.contains_key(&row) {
                named.insert(row);
            }
        }
        named
    }

    /// Moves all counts of a row to another one.
    fn add(&self, row: usize, into: usize) {
        let _nobody_reads = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        let all = self.tables.row_count();
        for stripe in 0..self.tables.stripes() {
            for at in 0..PER_ROW {
                let histogram = |row| self.tables.histogram(place(all, stripe, row, 0, at));
                let Some((from, to)) = histogram(row).zip(histogram(into)) else {
                    continue;
                };
                for (from, to) in from.words.iter().zip(&to.words) {
                    if from.load(Ordering::Relaxed) != 0 {
                        to.fetch_add(from.swap(0, Ordering::Relaxed), Ordering::Relaxed);
                    }
                }
            }
        }
        if let Some((from, to)) = self.tables.row(row).zip(self.tables.row(into)) {
            for (from, to) in from.retransmitted.iter().zip(&to.retransmitted) {
                to.fetch_add(from.swap(0, Ordering::Relaxed), Ordering::Relaxed);
            }
        }
    }

    /// Puts an empty row among the free ones, which are in order (the last ones are for namespaces
    /// only).
    fn give_back(&self, row: usize) -> io::Result<()> {
        let (Some(label), Ok(number)) = (self.tables.row(row), u32::try_from(row)) else {
            return Ok(());
        };
        claim(&*self.tables, CLAIM)?;
        let control = self.tables.control();
        let mut last = None;
        let mut next = control.free_row.load(Ordering::Relaxed);
        while next != 0 && next < number {
            let Some(free) = self.tables.row(next as usize) else {
                break;
            };
            last = Some(free);
            next = (free.pair.load(Ordering::Relaxed) & 0xffff_ffff) as u32;
        }
        let free = |next| PairKey::FREE | u64::from(next);
        label.pair.store(free(next), Ordering::Release);
        match last {
            Some(last) => last.pair.store(free(number), Ordering::Release),
            None => control.free_row.store(number, Ordering::Release),
        }
        self.tables.release(CLAIM)
    }
}

#[cfg(test)]
mod tests;
