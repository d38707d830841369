//! Pins: maps and links in a BPF file system. With them the data path outlives the agent, and the
//! next agent adopts it.
//!
//! Below the configured directory lies one directory per layout, `v<version>-<hash>`. The hash is
//! of everything that must be compatible between two agents (`compatibility`). An agent that finds
//! its own directory adopts it: it loads its programs over the existing maps, and replaces the
//! programs in the links, so that each packet meets one of both. Directories of other layouts (an
//! upgrade, a rollback, other sizes) are removed once the agent's own programs are attached.
//!
//! An agent locks the configured directory (`flock`), so there is one at a time. Map `STATE` is
//! pinned last. A directory without it was never finished, and is made anew.

mod adoption;
mod compatibility;
mod error;
mod lock;
mod persisted;

use std::{
    fs, io,
    os::fd::AsFd,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use aya::maps::MapData;
use lpm_common::hash::SEEDS;

use super::{bpf, load::LoadedProgram};
pub(crate) use adoption::{Adoption, PinnedLink, Slot, remove};
use adoption::{LINKS, PROGRAMS};
pub use compatibility::Compatibility;
pub(crate) use compatibility::netns_of;
pub use error::PinError;
pub(crate) use lock::{Lock, check as check_place};
pub(crate) use persisted::Persisted;

/// Longest time for which an ending agent may hold the lock. Its successor waits this long.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The pins of this agent. When the last holder drops them they are removed, unless they are to be
/// kept ([`Pins::keep`]).
#[derive(Debug)]
pub struct Pins {
    root: PathBuf,
    directory: PathBuf,
    maps: Vec<String>,
    adopted: Option<Arc<Persisted>>,
    keep: AtomicBool,
    _lock: Lock,
}

impl Pins {
    /// Opens a directory of pins, and makes it if it does not exist. Waits for an agent that holds
    /// it, up to `patience`.
    ///
    /// # Errors
    /// The directory is in no BPF file system, or in one that cannot be written; or another agent
    /// holds it.
    pub fn open(
        root: &Path,
        agreement: &Compatibility,
        patience: Duration,
    ) -> Result<Self, PinError> {
        lock::check(root)?;
        make(root)?;
        let lock = Lock::take(root, patience)?;
        let directory = root.join(agreement.directory());
        let adopted = if directory.join(persisted::STATE).exists() && fits(&directory, agreement) {
            Some(Arc::new(Persisted::open(&directory)?))
        } else {
            // The directory was never finished, or was tampered with.
            dismantle(&directory)?;
            None
        };
        for path in [
            &directory,
            &directory.join(LINKS),
            &directory.join(PROGRAMS),
        ] {
            make(path)?;
        }
        let maps = agreement.maps.iter().map(|map| map.name.clone());
        Ok(Self {
            maps: maps.collect(),
            root: root.to_owned(),
            directory,
            keep: AtomicBool::new(adopted.is_some()),
            adopted,
            _lock: lock,
        })
    }

    /// The directory of these maps and links.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// True if an earlier agent left its maps here.
    #[must_use]
    pub fn are_adopted(&self) -> bool {
        self.adopted.is_some()
    }

    /// When the maps that an earlier agent left here were made. They have counted since. None: they
    /// are new.
    #[must_use]
    pub fn made(&self) -> Option<SystemTime> {
        let state = self
            .adopted
            .as_ref()
            .map(|_| self.directory.join(persisted::STATE));
        state?.metadata().ok()?.modified().ok()
    }

    /// Sets whether everything stays for a successor when this agent ends.
    pub fn keep(&self, keep: bool) {
        self.keep.store(keep, Ordering::Relaxed);
    }

    pub(crate) fn are_kept(&self) -> bool {
        self.keep.load(Ordering::Relaxed)
    }

    /// The state that the last agent left beside the maps. None: there was no such agent.
    pub(crate) fn kept(&self) -> Option<&Arc<Persisted>> {
        self.adopted.as_ref()
    }

    /// Completes the pins once all maps are pinned: makes the state that agents leave to one
    /// another.
    pub(crate) fn complete(&self, seeds: &[u32; SEEDS]) -> Result<Arc<Persisted>, PinError> {
        Persisted::create(&self.directory, seeds).map(Arc::new)
    }

    /// Names of the maps that are pinned.
    pub(crate) fn maps(&self) -> Vec<String> {
        self.maps.clone()
    }

    /// Path of a map's pin.
    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Pins the link of a hook.
    pub(crate) fn pin_link(
        &self,
        link: impl AsFd,
        interface: u32,
        slot: Slot,
    ) -> Result<PathBuf, PinError> {
        let path = self.directory.join(LINKS).join(slot.file(interface));
        // The pin is of a gone interface, whose index was reused.
        if path.exists() {
            adoption::remove(&path);
        }
        bpf::pin(link, &path).map_err(|source| PinError::call("pin the link", &path, source))?;
        Ok(path)
    }

    /// Pins the programs that filters are about to run. By their ids the next agent recognises its
    /// predecessor's filters.
    pub(crate) fn pin_programs<'p>(
        &self,
        programs: impl Iterator<Item = &'p LoadedProgram>,
    ) -> Result<(), PinError> {
        for program in programs {
            let file = format!("{}-{}", program.name, program.id);
            let path = self.directory.join(PROGRAMS).join(file);
            bpf::pin(program, &path)
                .map_err(|source| PinError::call("pin the program", path, source))?;
        }
        Ok(())
    }

    /// The hooks of the last agent.
    pub(crate) fn inheritance(&self) -> Result<Adoption, PinError> {
        Adoption::read(&self.directory)
    }

    /// The directories of other layouts.
    pub(crate) fn others(&self) -> Result<Vec<PathBuf>, PinError> {
        let mut others = layouts(&self.root)?;
        others.retain(|directory| *directory != self.directory);
        Ok(others)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if self.are_kept() {
            return;
        }
        if let Err(error) = dismantle(&self.directory) {
            tracing::error!("{error}");
        }
        // The directory stays if something else is in it: then it is not ours alone.
        let _ = fs::remove_dir(&self.root);
    }
}

/// The directories of layouts below a directory.
pub(crate) fn layouts(root: &Path) -> Result<Vec<PathBuf>, PinError> {
    let failed = |source| PinError::call("list", root, source);
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let ours = entry
            .file_name()
            .to_str()
            .is_some_and(compatibility::is_directory);
        if ours && entry.file_type().map_err(failed)?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// The hooks that are pinned in a directory of a layout.
pub(crate) fn inheritance_of(directory: &Path) -> Result<Adoption, PinError> {
    Adoption::read(directory)
}

/// Removes the pins of one layout, and returns their paths. Links go first: what is measured no
/// more needs no maps. What is not ours stays, and so does the directory then.
pub(crate) fn dismantle(directory: &Path) -> Result<Vec<PathBuf>, PinError> {
    let mut removed = Vec::new();
    for part in [&directory.join(LINKS), &directory.join(PROGRAMS), directory] {
        for path in adoption::files(part)? {
            match fs::remove_file(&path) {
                Ok(()) => removed.push(path),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(PinError::call("remove the pin", path, source)),
            }
        }
        match fs::remove_dir(part) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOTEMPTY) => {
                tracing::warn!(directory = %part.display(), "the pin directory contains files that are not the agent's; they stay");
            }
            Err(source) => return Err(PinError::call("remove the directory", part, source)),
        }
    }
    Ok(removed)
}

/// True if the pinned maps are those that this build expects. The directory's name says so, but
/// anybody who may write there could have put others under their names.
fn fits(directory: &Path, agreement: &Compatibility) -> bool {
    let wrong = agreement.maps.iter().find(|expected| {
        let info = MapData::from_pin(directory.join(&expected.name)).and_then(|map| map.info());
        !info.is_ok_and(|info| {
            let kind = info.map_type().map_or(0, |kind| kind as u32);
            let [expected_kind, sizes @ ..] = expected.properties;
            kind == expected_kind && sizes == [info.key_size(), info.value_size(), info.map_flags()]
        })
    });
    if let Some(map) = wrong {
        tracing::warn!(directory = %directory.display(), map = map.name, "a pinned map is missing or has another layout: the agent creates all maps again");
    }
    wrong.is_none()
}

/// Makes a directory that only root may read.
fn make(path: &Path) -> Result<(), PinError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| PinError::call("make the directory", path, source))
}
