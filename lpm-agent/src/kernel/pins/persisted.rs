//! State that agents leave to one another beside the kernel programs' maps: secrets, sums, and the
//! meanings of ids.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use aya::maps::{HashMap, Map, MapData, MapError};
use aya_obj::generated::bpf_map_type;
use lpm_common::{
    hash::SEEDS,
    layout::{NameId, Traffic},
};

use super::{
    super::{bpf, mmap::MmapArray},
    PinError,
    directory::Directory,
};

/// Name of the map that is pinned last. Where it exists, nothing is missing.
pub(super) const STATE: &str = "STATE";

/// Name of the map with the meanings of ids.
pub(super) const IDS: &str = "IDS";

/// Map flag `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;

/// Map flag `BPF_F_NO_PREALLOC`.
const NO_PREALLOC: u32 = 1;

/// Number of words in [`STATE`].
const WORDS: usize = 64;

/// Index of the first secret in [`STATE`]. Each secret is one word.
const FIRST_SEED: usize = 8;

/// Index of the traffic that no entry holds any more: packets, then bytes.
const CARRIED: usize = 0;

const _: () = assert!(FIRST_SEED + SEEDS <= WORDS, "the secrets fit");

/// Bytes of a text in [`IDS`]. The first two hold its length.
const TEXT: usize = 1024;

/// Bytes of the length field.
const HEAD: usize = 2;

/// Most ids, far more than there are rows of histograms.
const MOST_IDS: u32 = 1 << 17;

/// The maps [`STATE`] and [`IDS`].
#[derive(Debug)]
pub(crate) struct Persisted {
    state: MmapArray<[AtomicU64; WORDS]>,
    ids: Mutex<HashMap<MapData, u32, [u8; TEXT]>>,
}

impl Persisted {
    /// Creates both maps and pins them in a directory.
    pub(super) fn create(directory: &Directory, seeds: &[u32; SEEDS]) -> Result<Self, PinError> {
        let words = u32::try_from(WORDS * 8).unwrap_or(u32::MAX);
        let text = u32::try_from(TEXT).unwrap_or(u32::MAX);
        let state = make(
            directory,
            STATE,
            bpf_map_type::BPF_MAP_TYPE_ARRAY,
            [4, words, 1, MMAPABLE],
        )?;
        let ids = make(
            directory,
            IDS,
            bpf_map_type::BPF_MAP_TYPE_HASH,
            [4, text, MOST_IDS, NO_PREALLOC],
        )?;
        pin(directory, IDS, &ids)?;
        let last = state.try_clone().map_err(|source| {
            PinError::call("duplicate the map", directory.path().join(STATE), source)
        })?;
        let kept = Self::of(directory, [state, ids])?;
        for (word, seed) in kept.words()[FIRST_SEED..].iter().zip(seeds) {
            word.store(u64::from(*seed), Ordering::Relaxed);
        }
        pin(directory, STATE, &last)?;
        Ok(kept)
    }

    /// Opens both maps by their pins in a directory.
    pub(super) fn open(directory: &Directory) -> Result<Self, PinError> {
        let open = |name: &str| {
            let path = directory.path().join(name);
            let opened = directory.open_pin(name);
            opened.map_err(|source| PinError::call("open the pinned map", path, source))
        };
        Self::of(directory, [open(STATE)?, open(IDS)?])
    }

    fn of(directory: &Directory, [state, ids]: [OwnedFd; 2]) -> Result<Self, PinError> {
        let failed = |name: &str, error: &dyn std::error::Error| {
            let source = io::Error::other(error.to_string());
            PinError::call("use the pinned map", directory.path().join(name), source)
        };
        let state = data(directory, STATE, state)?;
        let ids = Map::HashMap(data(directory, IDS, ids)?);
        Ok(Self {
            state: MmapArray::new(&state).map_err(|error| failed(STATE, &error))?,
            ids: Mutex::new(HashMap::try_from(ids).map_err(|error| failed(IDS, &error))?),
        })
    }

    fn words(&self) -> &[AtomicU64; WORDS] {
        self.state.get(0).expect("the array has an element")
    }

    /// The secrets of the flow hash that the maps were filled with.
    #[expect(clippy::cast_possible_truncation, reason = "words that hold 32 bits")]
    pub(crate) fn seeds(&self) -> [u32; SEEDS] {
        std::array::from_fn(|i| self.words()[FIRST_SEED + i].load(Ordering::Relaxed) as u32)
    }

    /// Traffic of entries that are gone: see
    /// [`PinnedState::carried`](crate::kernel::maps::PinnedState::carried).
    pub(crate) fn carried(&self) -> Traffic {
        let [packets, bytes] =
            [0, 1].map(|i: usize| self.words()[CARRIED + i].load(Ordering::Relaxed));
        Traffic { packets, bytes }
    }

    /// Stores that traffic: see [`PinnedState::carry`](crate::kernel::maps::PinnedState::carry).
    pub(crate) fn carry(&self, traffic: Traffic) {
        for (i, value) in [traffic.packets, traffic.bytes].into_iter().enumerate() {
            self.words()[CARRIED + i].store(value, Ordering::Relaxed);
        }
    }

    /// Stores the meaning of an id: see
    /// [`NameMaps::remember`](crate::kernel::maps::NameMaps::remember).
    pub(crate) fn remember(&self, id: NameId, text: &str) -> io::Result<()> {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.insert(id.0, value(text), 0).map_err(io::Error::other)
    }

    /// Removes the meaning of an id: see [`NameMaps::forget`](crate::kernel::maps::NameMaps::forget).
    pub(crate) fn forget(&self, id: NameId) -> Result<(), MapError> {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.remove(&id.0)
    }

    /// Reads the stored meanings: see
    /// [`NameMaps::remembered`](crate::kernel::maps::NameMaps::remembered).
    pub(crate) fn remembered(&self) -> io::Result<Vec<(NameId, String)>> {
        let ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = Vec::new();
        for entry in ids.iter() {
            let (id, value) = entry.map_err(|error: MapError| io::Error::other(error))?;
            all.push((NameId(id), parse_value(&value)));
        }
        Ok(all)
    }
}

fn make(
    directory: &Directory,
    name: &str,
    kind: bpf_map_type,
    properties: [u32; 4],
) -> Result<OwnedFd, PinError> {
    bpf::create_map(name, kind, properties)
        .map_err(|source| PinError::call("make the map", directory.path().join(name), source))
}

fn pin(directory: &Directory, name: &str, map: &OwnedFd) -> Result<(), PinError> {
    let path = directory.path().join(name);
    let pinned = directory.pin(map, name);
    pinned.map_err(|source| PinError::call("pin the map", path, source))
}

fn data(directory: &Directory, name: &str, map: OwnedFd) -> Result<MapData, PinError> {
    MapData::from_fd(map).map_err(|error| {
        let source = io::Error::other(error.to_string());
        PinError::call("use the pinned map", directory.path().join(name), source)
    })
}

/// A name that is too long ends in an ellipsis, so that it equals no existing name.
fn value(name: &str) -> [u8; TEXT] {
    const ELLIPSIS: &str = "…";
    let room = TEXT - HEAD;
    let text = if name.len() <= room {
        name.to_owned()
    } else {
        let end = name.floor_char_boundary(room - ELLIPSIS.len());
        format!("{}{ELLIPSIS}", &name[..end])
    };
    let mut value = [0; TEXT];
    let length = u16::try_from(text.len()).unwrap_or(0);
    value[..HEAD].copy_from_slice(&length.to_ne_bytes());
    value[HEAD..HEAD + text.len()].copy_from_slice(text.as_bytes());
    value
}

fn parse_value(value: &[u8; TEXT]) -> String {
    let length = usize::from(u16::from_ne_bytes([value[0], value[1]]));
    let text = value.get(HEAD..HEAD + length).unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        let long = "ä".repeat(500);
        for name in ["", "default", "naïve-ns", &long] {
            assert_eq!(parse_value(&value(name)), name);
        }
        let cut = parse_value(&value(&"ä".repeat(600)));
        assert!(cut.len() < TEXT && cut.ends_with('…'), "{cut}");
    }
}
