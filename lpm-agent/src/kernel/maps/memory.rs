//! The maps as vectors in memory, for tests.

use std::sync::{Mutex, PoisonError};

use super::*;

/// Maps without a kernel.
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

impl FlowMaps for Memory {
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

    fn forget_pair(&self, pair: PairKey) -> io::Result<()> {
        let mut forgotten = self
            .forgotten
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        forgotten.push(pair);
        Ok(())
    }
}

impl NameMaps for Memory {
    fn generation(&self) -> &AtomicU32 {
        &self.control().generation
    }

    fn name_count(&self) -> usize {
        self.room_for_names
    }

    fn set_name(&self, key: NameKey, value: NameValue) -> io::Result<()> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        // The kernel's trie does so before 6.13, even if the range is there already.
        if names.len() >= self.room_for_names {
            return Err(io::ErrorKind::StorageFull.into());
        }
        names.retain(|(other, _)| *other != key);
        names.push((key, value));
        Ok(())
    }

    fn remove_name(&self, key: NameKey) -> io::Result<()> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.retain(|(other, _)| *other != key);
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

    fn names(&self) -> io::Result<Vec<(NameKey, NameValue)>> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(names.clone())
    }

    fn remembered(&self) -> io::Result<Vec<(NameId, String)>> {
        let all = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Ok(all.clone())
    }

    fn remember(&self, id: NameId, text: &str) -> io::Result<()> {
        let mut all = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.push((id, text.to_owned()));
        Ok(())
    }

    fn forget(&self, id: NameId) -> io::Result<()> {
        let mut all = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.retain(|(other, _)| *other != id);
        Ok(())
    }
}

impl PinnedState for Memory {}
