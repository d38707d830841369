//! What the model needs of the kernel's maps.

use std::{io, time::Duration};

use lpm_common::{
    counter::COUNTERS,
    layout::{
        BackendKey, Control, FlowEntry, Histogram, NameId, NameKey, NameValue, PairKey, QueryEntry,
        Row, Traffic,
    },
};

/// Entries of a set of the flow table: a claim (map `CLAIMS`) is for one set.
pub const WAYS: usize = 4;

/// Histograms of one row in one stripe: two legs times three echoes, and for each leg the minima
/// of evicted flows; for rows of questions see [`lpm_common::layout::Family`].
pub const PER_ROW: usize = 8;

/// Place within a leg's histograms of the one that holds the minima of evicted flows.
pub const MINIMA: usize = 3;

/// Index of a histogram in map `HISTOGRAMS`; `echo` may be [`MINIMA`].
#[must_use]
pub fn place(rows: usize, stripe: usize, row: usize, leg: usize, echo: usize) -> usize {
    (stripe * rows + row) * PER_ROW + leg * (PER_ROW / 2) + echo
}

/// The kernel's maps, as memory that the kernel writes while it is read.
pub trait Tables: Send + Sync {
    /// Elements of map `FLOWS`.
    fn flow_count(&self) -> usize;

    /// An element of map `FLOWS`; `None`: past the end.
    fn flow(&self, index: usize) -> Option<&FlowEntry>;

    /// Elements of map `QUERIES`.
    fn query_count(&self) -> usize;

    /// An element of map `QUERIES`; `None`: past the end.
    fn query(&self, index: usize) -> Option<&QueryEntry>;

    /// Copies of each row's histograms.
    fn stripes(&self) -> usize;

    /// An element of map `HISTOGRAMS`, see [`place`]; `None`: past the end.
    fn histogram(&self, index: usize) -> Option<&Histogram>;

    /// Elements of map `ROWS`.
    fn row_count(&self) -> usize;

    /// An element of map `ROWS`: the label set of a histogram row; `None`: past the end.
    fn row(&self, index: usize) -> Option<&Row>;

    /// The element of map `CONTROL`.
    fn control(&self) -> &Control;

    /// Map `COUNTERS`, summed over the CPUs. One system call.
    fn counters(&self) -> io::Result<[u64; COUNTERS]>;

    /// Runs `lpm_clock`, which writes the two clocks to [`Tables::control`].
    fn run_clock(&self) -> io::Result<()>;

    /// Takes the claim for a set of the flow table, or (with [`lpm_common::query::CLAIMS`] added)
    /// of the table of questions; false: the kernel holds it just now.
    fn claim(&self, set: u32) -> io::Result<bool>;

    /// Gives it back.
    fn release(&self, set: u32) -> io::Result<()>;

    /// Names that map `NAMES` has room for.
    fn name_count(&self) -> usize;

    /// Puts an address range into map `NAMES`.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`]: it has no room; others: it cannot be written. What the
    /// range had there before is there still.
    fn set_name(&self, key: NameKey, value: NameValue) -> io::Result<()>;

    /// Takes an address range out of map `NAMES`; one that is not there is no error.
    fn remove_name(&self, key: NameKey) -> io::Result<()>;

    /// Says in map `BACKENDS` whose a connection really is.
    ///
    /// # Errors
    /// The kernel's map is full.
    fn set_backend(&self, of: &BackendKey, id: NameId) -> io::Result<()>;

    /// Takes a connection out of map `BACKENDS`; one that is not there is no error.
    ///
    /// # Errors
    /// The kernel's map cannot be written.
    fn remove_backend(&self, of: &BackendKey) -> io::Result<()>;

    /// Takes a label set out of map `PAIRS`, so that no flow finds its row; one that is not there
    /// is no error.
    ///
    /// # Errors
    /// The kernel's map cannot be written.
    fn forget_pair(&self, pair: PairKey) -> io::Result<()>;

    /// Returns once all programs that run now have ended, as far as the kernel can tell.
    ///
    /// # Errors
    /// It cannot be waited for.
    fn quiesce(&self) -> io::Result<()> {
        Ok(())
    }

    /// All of map `NAMES`: what the last agent with these maps left there. None: they are fresh.
    ///
    /// # Errors
    /// The kernel's map cannot be read.
    fn names(&self) -> io::Result<Vec<(NameKey, NameValue)>> {
        Ok(Vec::new())
    }

    /// What [`Tables::remember`] was told by the last agent with these maps.
    ///
    /// # Errors
    /// The kernel's map cannot be read.
    fn remembered(&self) -> io::Result<Vec<(NameId, String)>> {
        Ok(Vec::new())
    }

    /// Keeps what an id stands for beside the maps that hold it, if they outlive the agent. To be
    /// called before the kernel can see the id.
    ///
    /// # Errors
    /// The kernel's map is full.
    fn remember(&self, _id: NameId, _text: &str) -> io::Result<()> {
        Ok(())
    }

    /// Traffic that no entry holds any more, as the last agent with these maps left it.
    fn carried(&self) -> Option<Traffic> {
        None
    }

    /// Keeps that for the next one, if the maps outlive the agent.
    fn carry(&self, _traffic: Traffic) {}

    /// Lets the programs work for this long from now on, and then rest unless it is called again.
    ///
    /// # Errors
    /// The clocks cannot be read, or the kernel's map not be written.
    fn stay_awake(&self, _at_most: Duration) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod memory {
    //! The maps as vectors, for tests.

    use std::sync::{Mutex, PoisonError};

    use super::*;

    /// Tables without a kernel.
    pub(crate) struct Memory {
        pub(crate) flows: Vec<FlowEntry>,
        pub(crate) queries: Vec<QueryEntry>,
        pub(crate) histograms: Vec<Histogram>,
        pub(crate) rows: Vec<Row>,
        pub(crate) control: Control,
        pub(crate) counters: Mutex<[u64; COUNTERS]>,
        pub(crate) names: Mutex<Vec<(NameKey, NameValue)>>,
        pub(crate) backends: Mutex<std::collections::HashMap<BackendKey, NameId>>,
        pub(crate) remembered: Mutex<Vec<(NameId, String)>>,
        pub(crate) forgotten: Mutex<Vec<PairKey>>,
        pub(crate) room_for_names: usize,
    }

    impl Memory {
        pub(crate) fn new(flows: usize, rows: usize, stripes: usize) -> Self {
            let histogram = || Histogram {
                words: std::array::from_fn(|_| std::sync::atomic::AtomicU64::new(0)),
            };
            Self {
                flows: (0..flows).map(|_| FlowEntry::default()).collect(),
                queries: (0..8).map(|_| QueryEntry::default()).collect(),
                histograms: (0..rows * stripes * PER_ROW).map(|_| histogram()).collect(),
                rows: (0..rows).map(|_| Row::default()).collect(),
                control: Control::default(),
                counters: Mutex::new([0; COUNTERS]),
                names: Mutex::new(Vec::new()),
                backends: Mutex::default(),
                remembered: Mutex::new(Vec::new()),
                forgotten: Mutex::new(Vec::new()),
                room_for_names: usize::MAX,
            }
        }
    }

    impl Tables for Memory {
        fn flow_count(&self) -> usize {
            self.flows.len()
        }

        fn flow(&self, index: usize) -> Option<&FlowEntry> {
            self.flows.get(index)
        }

        fn query_count(&self) -> usize {
            self.queries.len()
        }

        fn query(&self, index: usize) -> Option<&QueryEntry> {
            self.queries.get(index)
        }

        fn stripes(&self) -> usize {
            self.histograms.len() / self.rows.len() / PER_ROW
        }

        fn histogram(&self, index: usize) -> Option<&Histogram> {
            self.histograms.get(index)
        }

        fn row_count(&self) -> usize {
            self.rows.len()
        }

        fn row(&self, index: usize) -> Option<&Row> {
            self.rows.get(index)
        }

        fn control(&self) -> &Control {
            &self.control
        }

        fn counters(&self) -> io::Result<[u64; COUNTERS]> {
            Ok(*self.counters.lock().unwrap_or_else(PoisonError::into_inner))
        }

        fn run_clock(&self) -> io::Result<()> {
            Ok(())
        }

        fn claim(&self, _set: u32) -> io::Result<bool> {
            Ok(true)
        }

        fn release(&self, _set: u32) -> io::Result<()> {
            Ok(())
        }

        fn name_count(&self) -> usize {
            self.room_for_names
        }

        fn set_name(&self, key: NameKey, value: NameValue) -> io::Result<()> {
            let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            // As the kernel's trie does before 6.13, even if the range is there already.
            if names.len() >= self.room_for_names {
                return Err(io::ErrorKind::StorageFull.into());
            }
            names.retain(|(other, _)| *other != key);
            names.push((key, value));
            Ok(())
        }

        fn set_backend(&self, of: &BackendKey, id: NameId) -> io::Result<()> {
            let mut backends = self.backends.lock().unwrap_or_else(PoisonError::into_inner);
            backends.insert(*of, id);
            Ok(())
        }

        fn remove_backend(&self, of: &BackendKey) -> io::Result<()> {
            let mut backends = self.backends.lock().unwrap_or_else(PoisonError::into_inner);
            backends.remove(of);
            Ok(())
        }

        fn remove_name(&self, key: NameKey) -> io::Result<()> {
            let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            names.retain(|(other, _)| *other != key);
            Ok(())
        }

        fn names(&self) -> io::Result<Vec<(NameKey, NameValue)>> {
            let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(names.clone())
        }

        fn forget_pair(&self, pair: PairKey) -> io::Result<()> {
            let mut forgotten = self
                .forgotten
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            forgotten.push(pair);
            Ok(())
        }

        fn remember(&self, id: NameId, text: &str) -> io::Result<()> {
            let mut all = self
                .remembered
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            all.push((id, text.to_owned()));
            Ok(())
        }

        fn remembered(&self) -> io::Result<Vec<(NameId, String)>> {
            let all = self
                .remembered
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            Ok(all.clone())
        }
    }
}
