//! The interface between the kernel's maps and the rooms above: [`FlowMaps`] is for `passive`,
//! [`NameMaps`] for `identity`, [`PinnedState`] for what outlives an agent.

use std::{io, sync::atomic::AtomicU32, time::Duration};

use lpm_common::{
    counter::COUNTERS,
    layout::{
        BackendKey, Control, FlowEntry, Histogram, NameId, NameKey, NameValue, PairKey, QueryEntry,
        Row, Traffic,
    },
};

/// Entries of a set of the flow table. A claim (map `CLAIMS`) is for one set.
pub const WAYS: usize = 4;

/// Histograms of one row in one stripe: two legs times three echoes, and for each leg the minima of
/// evicted flows. For rows of queries see [`lpm_common::layout::Family`].
pub const PER_ROW: usize = 8;

/// Place of the histogram of evicted flows' minima within a leg's histograms.
pub const MINIMA: usize = 3;

/// Index of a histogram in map `HISTOGRAMS`; `echo` may be [`MINIMA`].
#[must_use]
pub fn place(rows: usize, stripe: usize, row: usize, leg: usize, echo: usize) -> usize {
    (stripe * rows + row) * PER_ROW + leg * (PER_ROW / 2) + echo
}

/// The measurements: flows, queries, histograms and counters, as memory that the kernel writes
/// while it is read.
pub trait FlowMaps: Send + Sync {
    /// Number of elements of map `FLOWS`.
    fn flow_count(&self) -> usize;

    /// An element of map `FLOWS`. None: past the end.
    fn flow(&self, index: usize) -> Option<&FlowEntry>;

    /// Number of elements of map `QUERIES`.
    fn query_count(&self) -> usize;

    /// An element of map `QUERIES`. None: past the end.
    fn query(&self, index: usize) -> Option<&QueryEntry>;

    /// Number of stripes: copies of each row's histograms.
    fn stripes(&self) -> usize;

    /// An element of map `HISTOGRAMS`, see [`place`]. None: past the end.
    fn histogram(&self, index: usize) -> Option<&Histogram>;

    /// Number of elements of map `ROWS`.
    fn row_count(&self) -> usize;

    /// An element of map `ROWS`: the label set of a histogram row. None: past the end.
    fn row(&self, index: usize) -> Option<&Row>;

    /// The element of map `CONTROL`.
    fn control(&self) -> &Control;

    /// The counters of map `COUNTERS`, summed over the CPUs. It takes one system call.
    fn counters(&self) -> io::Result<[u64; COUNTERS]>;

    /// Runs `lpm_clock`, which writes the two clocks to [`FlowMaps::control`].
    fn run_clock(&self) -> io::Result<()>;

    /// Takes the claim for a set of the flow table, or (with [`lpm_common::query::CLAIMS`] added)
    /// of the table of queries. False: the kernel holds it just now.
    fn claim(&self, set: u32) -> io::Result<bool>;

    /// Releases the claim for a set.
    fn release(&self, set: u32) -> io::Result<()>;

    /// Removes a label set from map `PAIRS`, so that no flow finds its row. A label set that is
    /// absent is no error.
    ///
    /// # Errors
    /// The kernel's map cannot be written.
    fn forget_pair(&self, pair: PairKey) -> io::Result<()>;

    /// Returns once all programs that run now have ended, as far as the kernel can tell.
    ///
    /// # Errors
    /// The kernel does not allow to wait for them.
    fn quiesce(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The names of addresses in the kernel, and what the last agent left of them.
pub trait NameMaps: Send + Sync {
    /// Generation of the names, in map `CONTROL`. A new generation makes flows look up their names
    /// again.
    fn generation(&self) -> &AtomicU32;

    /// Number of names that map `NAMES` has room for.
    fn name_count(&self) -> usize;

    /// Puts an address range into map `NAMES`.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`]: the map has no room. Others: the map cannot be written. In
    /// either case the range keeps the name that it had.
    fn set_name(&self, key: NameKey, value: NameValue) -> io::Result<()>;

    /// Removes an address range from map `NAMES`. A range that is absent is no error.
    fn remove_name(&self, key: NameKey) -> io::Result<()>;

    /// Puts the name of a connection's backend into map `BACKENDS`.
    ///
    /// # Errors
    /// The kernel's map is full.
    fn set_backend(&self, of: &BackendKey, id: NameId) -> io::Result<()>;

    /// Removes a connection from map `BACKENDS`. A connection that is absent is no error.
    ///
    /// # Errors
    /// The kernel's map cannot be written.
    fn remove_backend(&self, of: &BackendKey) -> io::Result<()>;

    /// All entries of map `NAMES`, as the last agent with these maps left them. Empty: the maps are
    /// new.
    ///
    /// # Errors
    /// The kernel's map cannot be read.
    fn names(&self) -> io::Result<Vec<(NameKey, NameValue)>> {
        Ok(Vec::new())
    }

    /// The entries that the last agent with these maps gave to [`NameMaps::remember`].
    ///
    /// # Errors
    /// The kernel's map cannot be read.
    fn remembered(&self) -> io::Result<Vec<(NameId, String)>> {
        Ok(Vec::new())
    }

    /// Stores the meaning of an id beside the maps that hold it, if they outlive the agent. Call it
    /// before the kernel can see the id.
    ///
    /// # Errors
    /// The kernel's map is full.
    fn remember(&self, _id: NameId, _text: &str) -> io::Result<()> {
        Ok(())
    }

    /// Removes the meaning of an id that nobody has any more. An id that is absent is no error.
    ///
    /// # Errors
    /// The kernel's map cannot be written.
    fn forget(&self, _id: NameId) -> io::Result<()> {
        Ok(())
    }
}

/// What outlives the agent beside flows and names, if the maps are pinned.
pub trait PinnedState: Send + Sync {
    /// Traffic that no entry holds any more, as the last agent with these maps left it.
    fn carried(&self) -> Option<Traffic> {
        None
    }

    /// Stores the traffic of [`Self::carried`] for the next agent, if the maps outlive this one.
    fn carry(&self, _traffic: Traffic) {}

    /// Lets the programs work for this long from now on. Then they rest, unless it is called again.
    ///
    /// # Errors
    /// The clocks cannot be read, or the kernel's map cannot be written.
    fn stay_awake(&self, _at_most: Duration) -> io::Result<()> {
        Ok(())
    }
}

/// All interfaces to the maps of a set of loaded programs.
pub trait Maps: FlowMaps + NameMaps + PinnedState {}

impl<T: FlowMaps + NameMaps + PinnedState> Maps for T {}

#[cfg(test)]
pub(crate) mod memory;
