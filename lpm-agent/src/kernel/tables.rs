//! The loaded maps as the model wants them.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::maps::{HashMap, MapData, MapError, PerCpuArray, lpm_trie};
use lpm_common::{
    counter::COUNTERS,
    layout::{Control, FlowEntry, Histogram, NameKey, NameValue, QueryEntry, Row},
};

use super::{
    load::{Kernel, LoadError},
    mmap::MmapArray,
};
use crate::passive::{Tables, tables::PER_ROW};

/// `BPF_NOEXIST`: make a new element, or fail.
const BPF_NOEXIST: u64 = 1;

/// [`Tables`] over the kernel's maps. Owns the loaded object.
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
        Ok(Self {
            flows: kernel.flows()?,
            queries: kernel.queries()?,
            histograms: kernel.histograms()?,
            rows: kernel.rows()?,
            control,
            counters: kernel.take("COUNTERS")?,
            claims: Mutex::new(kernel.take("CLAIMS")?),
            names: Mutex::new(kernel.take("NAMES")?),
            kernel,
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
        match unpoisoned(&self.claims).insert(set, 0, BPF_NOEXIST) {
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

    fn set_name(&self, key: NameKey, value: NameValue) -> io::Result<()> {
        let key = lpm_trie::Key::new(key.prefix_len, key.address);
        unpoisoned(&self.names)
            .insert(&key, value_bytes(value), 0)
            .map_err(io::Error::other)
    }

    fn remove_name(&self, key: NameKey) -> io::Result<()> {
        let key = lpm_trie::Key::new(key.prefix_len, key.address);
        match unpoisoned(&self.names).remove(&key) {
            Ok(()) => Ok(()),
            Err(error) => absent_is_fine(error),
        }
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

/// The memory of a [`NameValue`].
fn value_bytes(value: NameValue) -> [u8; 8] {
    let [a, b, c, d] = value.id.0.to_ne_bytes();
    [a, b, c, d, value.kind, value.own, 0, 0]
}

/// A map's handle holds no state that a panic could leave half done.
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
            reserved: 0,
        };
        let [a, b, c, d] = 0x0001_0203_u32.to_ne_bytes();
        assert_eq!(value_bytes(value), [a, b, c, d, 3, 1, 0, 0]);
        assert_eq!(std::mem::offset_of!(NameValue, kind), 4);
        assert_eq!(std::mem::offset_of!(NameValue, own), 5);
    }
}
