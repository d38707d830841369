//! The model's tables over the kernel's maps.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::maps::{HashMap, LpmTrie, MapData, MapError, PerCpuArray, lpm_trie::Key};
use lpm_common::{
    counter::COUNTERS,
    layout::{Control, FlowEntry, Histogram, NameKey, NameValue, Row},
};

use crate::{
    kernel::{
        load::{Kernel, LoadError},
        mmap::MmapArray,
    },
    passive::{Tables, tables::PER_ROW},
};

/// An insert that fails if the key is there: the kernel's `BPF_NOEXIST`.
const NO_EXIST: u64 = 1;

/// The maps of one loaded object.
pub(super) struct KernelTables {
    flows: MmapArray<FlowEntry>,
    histograms: MmapArray<Histogram>,
    rows: MmapArray<Row>,
    control: MmapArray<Control>,
    counters: PerCpuArray<MapData, [u64; COUNTERS]>,
    claims: Mutex<HashMap<MapData, u32, u32>>,
    names: Mutex<LpmTrie<MapData, [u8; 16], [u8; 4]>>,
    /// Holds the programs' clock; the rest of it is not needed any more.
    kernel: Mutex<Kernel>,
}

impl KernelTables {
    pub(super) fn new(mut kernel: Kernel) -> Result<Self, LoadError> {
        let control = kernel.control()?;
        if control.is_empty() {
            return Err(LoadError::Missing {
                what: "element of the map",
                name: "CONTROL",
            });
        }
        Ok(Self {
            flows: kernel.flows()?,
            histograms: kernel.histograms()?,
            rows: kernel.rows()?,
            control,
            counters: kernel.take("COUNTERS")?,
            claims: Mutex::new(kernel.take("CLAIMS")?),
            names: Mutex::new(kernel.take("NAMES")?),
            kernel: Mutex::new(kernel),
        })
    }
}

impl Tables for KernelTables {
    fn flow_count(&self) -> usize {
        self.flows.len()
    }

    fn flow(&self, index: usize) -> Option<&FlowEntry> {
        self.flows.get(index)
    }

    fn stripes(&self) -> usize {
        self.histograms.len() / PER_ROW / self.rows.len().max(1)
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
        let Some(control) = self.control.get(0) else {
            unreachable!("new() checked that there is one");
        };
        control
    }

    fn counters(&self) -> io::Result<[u64; COUNTERS]> {
        let by_cpu = self.counters.get(&0, 0).map_err(io::Error::other)?;
        Ok(std::array::from_fn(|counter| {
            by_cpu.iter().map(|cpu| cpu[counter]).sum()
        }))
    }

    fn run_clock(&self) -> io::Result<()> {
        lock(&self.kernel).run_clock().map_err(io::Error::other)
    }

    fn claim(&self, set: u32) -> io::Result<bool> {
        match lock(&self.claims).insert(set, 0, NO_EXIST) {
            Ok(()) => Ok(true),
            Err(MapError::SyscallError(error))
                if error.io_error.kind() == io::ErrorKind::AlreadyExists =>
            {
                Ok(false)
            }
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn release(&self, set: u32) -> io::Result<()> {
        lock(&self.claims).remove(&set).map_err(io::Error::other)
    }

    fn set_name(&self, key: NameKey, value: NameValue) -> io::Result<()> {
        let [low, high] = value.namespace.to_ne_bytes();
        let bytes = [low, high, value.kind, value.own];
        lock(&self.names)
            .insert(&trie_key(key), bytes, 0)
            .map_err(io::Error::other)
    }

    fn remove_name(&self, key: NameKey) -> io::Result<()> {
        match lock(&self.names).remove(&trie_key(key)) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(error))
                if error.io_error.kind() == io::ErrorKind::NotFound =>
            {
                Ok(())
            }
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

fn trie_key(key: NameKey) -> Key<[u8; 16]> {
    Key::new(key.prefix_len, key.address)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn a_name_in_memory() {
        assert_eq!(offset_of!(NameValue, kind), 2);
        assert_eq!(offset_of!(NameValue, own), 3);
    }
}
