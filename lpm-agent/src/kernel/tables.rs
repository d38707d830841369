//! The loaded maps behind the traits of [`super::maps`].

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, lpm_trie};
use lpm_common::{
    counter::COUNTERS,
    layout::{
        BackendKey, Control, FlowEntry, Histogram, NameId, NameKey, NameValue, PairKey, QueryEntry,
        Row, Traffic,
    },
};
use nix::time::{ClockId, clock_gettime};

use super::{
    load::{Kernel, LoadError, jiffies_per_second},
    maps::{FlowMaps, NameMaps, PER_ROW, PinnedState},
    mmap::MmapArray,
    pins::Persisted,
    rcu::wait_for_programs,
};

/// Map flag `BPF_NOEXIST`: create a new element, or fail.
const BPF_NOEXIST: u64 = 1;

/// The value of a claim that the agent made. The kernel programs' value is 0. A claim that a killed
/// agent left would never be released otherwise.
const OF_AGENT: u32 = 1;

/// Implements [`super::maps::Maps`] over the kernel's maps. It owns the loaded object.
pub struct KernelTables {
    kernel: Kernel,
    flows: MmapArray<FlowEntry>,
    queries: MmapArray<QueryEntry>,
    histograms: MmapArray<Histogram>,
    rows: MmapArray<Row>,
    control: MmapArray<Control>,
    counters: PerCpuArray<MapData, [u64; COUNTERS]>,
    claims: Mutex<HashMap<MapData, u32, u32>>,
    names: Mutex<lpm_trie::LpmTrie<MapData, [u8; 16], [u8; 8]>>,
    pairs: Mutex<HashMap<MapData, u64, u32>>,
    backends: Mutex<HashMap<MapData, BackendKey, u32>>,
    awake_until: Mutex<Array<MapData, u64>>,
    kept: Option<Arc<Persisted>>,
}

impl KernelTables {
    /// Takes the maps of the model out of the object. Take out before what others need:
    /// [`Kernel::programs`], [`Kernel::interfaces`], `SAMPLES`.
    pub fn new(mut kernel: Kernel) -> Result<Self, LoadError> {
        let control = kernel.control()?;
        if control.get(0).is_none() {
            return Err(LoadError::Missing {
                what: "element of array",
                name: "CONTROL",
            });
        }
        let tables = Self {
            flows: kernel.flows()?,
            queries: kernel.queries()?,
            histograms: kernel.histograms()?,
            rows: kernel.rows()?,
            control,
            counters: kernel.take("COUNTERS")?,
            claims: Mutex::new(kernel.take("CLAIMS")?),
            names: Mutex::new(kernel.take("NAMES")?),
            pairs: Mutex::new(kernel.take("PAIRS")?),
            backends: Mutex::new(kernel.take("BACKENDS")?),
            awake_until: Mutex::new(kernel.take(".data")?),
            kept: kernel.kept().cloned(),
            kernel,
        };
        if tables.kernel.is_adopted() {
            tables.take_over();
        }
        Ok(tables)
    }

    /// Undoes what an agent that was killed could not undo itself.
    fn take_over(&self) {
        // No watcher of this agent exists yet.
        self.control().watch.store(0, Ordering::Release);
        let mut claims = unpoisoned(&self.claims);
        let left: Vec<u32> = claims
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, of)| *of == OF_AGENT)
            .map(|(set, _)| set)
            .collect();
        for set in left {
            if let Err(error) = claims.remove(&set) {
                tracing::warn!(set, %error, "a set of the flow table stays locked and takes no new flow");
            }
        }
    }

    /// The current jiffies, all 64 bits.
    fn jiffies(&self) -> io::Result<u64> {
        let control = self.control();
        let at_ktime = Duration::from_nanos(control.clock_ktime_ns.load(Ordering::Acquire));
        let at_jiffies = control.clock_jiffies.load(Ordering::Acquire);
        let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
        Ok(at_jiffies.saturating_add(in_jiffies(now.saturating_sub(at_ktime))))
    }
}

/// Converts a time to jiffies. It rounds up, so that the programs rest late rather than early.
fn in_jiffies(time: Duration) -> u64 {
    let hz = u128::from(jiffies_per_second());
    u64::try_from((time.as_nanos() * hz).div_ceil(1_000_000_000)).unwrap_or(u64::MAX)
}

impl FlowMaps for KernelTables {
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
        self.histograms.len() / (self.rows.len() * PER_ROW)
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
        self.control
            .get(0)
            .expect("new() made sure that there is one")
    }

    fn counters(&self) -> io::Result<[u64; COUNTERS]> {
        let values = self.counters.get(&0, 0).map_err(io::Error::other)?;
        let mut sums = [0u64; COUNTERS];
        for cpu in values.iter() {
            for (sum, value) in sums.iter_mut().zip(cpu) {
                *sum = sum.wrapping_add(*value);
            }
        }
        Ok(sums)
    }

    fn run_clock(&self) -> io::Result<()> {
        self.kernel.run_clock().map_err(io::Error::other)
    }

    fn claim(&self, set: u32) -> io::Result<bool> {
        match unpoisoned(&self.claims).insert(set, OF_AGENT, BPF_NOEXIST) {
            Ok(()) => Ok(true),
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::EEXIST) =>
            {
                Ok(false)
            }
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn release(&self, set: u32) -> io::Result<()> {
        match unpoisoned(&self.claims).remove(&set) {
            Ok(()) => Ok(()),
            Err(error) => absent_is_fine(error),
        }
    }

    fn forget_pair(&self, pair: PairKey) -> io::Result<()> {
        match unpoisoned(&self.pairs).remove(&pair.0) {
            Ok(()) => Ok(()),
            Err(error) => absent_is_fine(error),
        }
    }

    fn quiesce(&self) -> io::Result<()> {
        match wait_for_programs() {
            // CPUs run without ticks, or seccomp is in the way. Callers let seconds pass between
            // their looks, and a program takes microseconds.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EPERM)) => {
                tracing::debug!(%error, "the agent cannot wait for running kernel programs to end");
                Ok(())
            }
            waited => waited,
        }
    }
}

impl NameMaps for KernelTables {
    fn generation(&self) -> &AtomicU32 {
        &self.control().generation
    }

    fn name_count(&self) -> usize {
        self.kernel.name_count()
    }

    fn set_name(&self, key: NameKey, value: NameValue) -> io::Result<()> {
        let key = lpm_trie::Key::new(key.prefix_len, key.address);
        unpoisoned(&self.names)
            .insert(&key, value_bytes(value), 0)
            .map_err(full_or_other)
    }

    fn remove_name(&self, key: NameKey) -> io::Result<()> {
        let key = lpm_trie::Key::new(key.prefix_len, key.address);
        match unpoisoned(&self.names).remove(&key) {
            Ok(()) => Ok(()),
            Err(error) => absent_is_fine(error),
        }
    }

    fn set_backend(&self, of: &BackendKey, id: NameId) -> io::Result<()> {
        let mut backends = unpoisoned(&self.backends);
        backends.insert(of, id.0, 0).map_err(io::Error::other)
    }

    fn remove_backend(&self, of: &BackendKey) -> io::Result<()> {
        unpoisoned(&self.backends)
            .remove(of)
            .or_else(absent_is_fine)
    }

    fn names(&self) -> io::Result<Vec<(NameKey, NameValue)>> {
        if !self.kernel.is_adopted() {
            return Ok(Vec::new());
        }
        let names = unpoisoned(&self.names);
        let mut all = Vec::new();
        for entry in names.iter() {
            let (key, value) = entry.map_err(io::Error::other)?;
            let key = NameKey {
                prefix_len: key.prefix_len(),
                address: key.data(),
            };
            all.push((key, value_of(value)));
        }
        Ok(all)
    }

    fn remembered(&self) -> io::Result<Vec<(NameId, String)>> {
        self.kept
            .as_ref()
            .map_or_else(|| Ok(Vec::new()), |kept| kept.remembered())
    }

    fn remember(&self, id: NameId, text: &str) -> io::Result<()> {
        self.kept
            .as_ref()
            .map_or(Ok(()), |kept| kept.remember(id, text))
    }

    fn forget(&self, id: NameId) -> io::Result<()> {
        let forgotten = self.kept.as_ref().map_or(Ok(()), |kept| kept.forget(id));
        forgotten.or_else(absent_is_fine)
    }
}

impl PinnedState for KernelTables {
    fn carried(&self) -> Option<Traffic> {
        self.kept.as_ref().map(|kept| kept.carried())
    }

    fn carry(&self, traffic: Traffic) {
        if let Some(kept) = &self.kept {
            kept.carry(traffic);
        }
    }

    fn stay_awake(&self, at_most: Duration) -> io::Result<()> {
        let until = self.jiffies()?.saturating_add(in_jiffies(at_most));
        unpoisoned(&self.awake_until)
            .set(0, until, 0)
            .map_err(io::Error::other)
    }
}

/// Converts an error of a map. A full trie (`trie_update_elem`) is told apart by `ENOSPC`.
fn full_or_other(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::ENOSPC) => {
            error.io_error
        }
        error => io::Error::other(error),
    }
}

fn absent_is_fine(error: MapError) -> io::Result<()> {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => Ok(()),
        MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::ENOENT) => {
            Ok(())
        }
        error => Err(io::Error::other(error)),
    }
}

/// The bytes of a [`NameValue`] in memory.
fn value_bytes(value: NameValue) -> [u8; 8] {
    let [a, b, c, d] = value.id.0.to_ne_bytes();
    [a, b, c, d, value.kind, value.own, value.stands, 0]
}

/// The [`NameValue`] of these bytes.
fn value_of([a, b, c, d, kind, own, stands, _]: [u8; 8]) -> NameValue {
    NameValue {
        id: NameId(u32::from_ne_bytes([a, b, c, d])),
        kind,
        own,
        stands,
        reserved: 0,
    }
}

/// Locks a map's handle, also after a panic: it holds no state that could be left half done.
fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use lpm_common::layout::NameId;

    use super::*;

    #[test]
    fn the_value_of_a_name_in_memory() {
        let value = NameValue {
            id: NameId(0x0001_0203),
            kind: 3,
            own: 1,
            stands: 1,
            reserved: 0,
        };
        let [a, b, c, d] = 0x0001_0203_u32.to_ne_bytes();
        assert_eq!(value_bytes(value), [a, b, c, d, 3, 1, 1, 0]);
        assert_eq!(std::mem::offset_of!(NameValue, kind), 4);
        assert_eq!(std::mem::offset_of!(NameValue, own), 5);
        assert_eq!(std::mem::offset_of!(NameValue, stands), 6);
        assert_eq!(value_of(value_bytes(value)), value);
    }
}
