//! What the rooms above need of the kernel's maps: [`FlowMaps`] is for `passive`, [`NameMaps`] for
//! `identity`.

use std::{io, sync::atomic::AtomicU32, time::Duration};

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

/// What was measured: flows, questions, histograms and counters, as memory that the kernel writes
/// while it is read.
pub trait FlowMaps: Send + Sync {
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

    /// Runs `lpm_clock`, which writes the two clocks to [`FlowMaps::control`].
    fn run_clock(&self) -> io::Result<()>;

    /// Takes the claim for a set of the flow table, or (with [`lpm_common::query::CLAIMS`] added)
    /// of the table of questions; false: the kernel holds it just now.
    fn claim(&self, set: u32) -> io::Result<bool>;

    /// Gives it back.
    fn release(&self, set: u32) -> io::Result<()>;

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
}

/// Who is who, and what the agent before this one left of it.
pub trait NameMaps: Send + Sync {
    /// Generation of the names, in map `CONTROL`: another one makes flows look for theirs again.
    fn generation(&self) -> &AtomicU32;

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

    /// All of map `NAMES`: what the last agent with these maps left there. None: they are fresh.
    ///
    /// # Errors
    /// The kernel's map cannot be read.
    fn names(&self) -> io::Result<Vec<(NameKey, NameValue)>> {
        Ok(Vec::new())
    }

    /// What [`NameMaps::remember`] was told by the last agent with these maps.
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
}

/// What outlives the agent beside flows and names, if the maps are pinned.
pub trait PinnedState: Send + Sync {
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

/// All of them: what a set of loaded programs has.
pub trait Maps: FlowMaps + NameMaps + PinnedState {}

impl<T: FlowMaps + NameMaps + PinnedState> Maps for T {}

#[cfg(test)]
pub(crate) mod memory;
