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
//!
//! Whoever may change the directory decides what the next agent takes over. So an agent pins only
//! where nobody but root (or its own user) may write, and goes through descriptors (`directory`).

mod adoption;
mod compatibility;
mod directory;
mod error;
mod lock;
mod persisted;

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use aya::maps::MapData;
use lpm_common::hash::SEEDS;

use super::load::LoadedProgram;
pub(crate) use adoption::{Adoption, PinnedLink, Slot};
use adoption::{LINKS, PROGRAMS};
pub use compatibility::Compatibility;
pub(crate) use compatibility::{is_directory as is_layout, netns_of};
pub(crate) use directory::{Directory, Pin, check as check_place, is_trusted};
pub use error::PinError;
pub(crate) use lock::{Holder, Lock};
pub(crate) use persisted::Persisted;

/// Longest time for which an ending agent may hold the lock. Its successor waits this long.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The pins of this agent. When the last holder drops them they are removed, unless they are to be
/// kept ([`Pins::keep`]).
#[derive(Debug)]
pub struct Pins {
    root: Directory,
    /// Name of the layout's directory in `root`.
    name: String,
    layout: Directory,
    links: Arc<Directory>,
    programs: Directory,
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
    /// The directory is in no BPF file system, or in one that cannot be written; somebody else than
    /// root may change it; or another agent holds it.
    pub fn open(
        root: &Path,
        agreement: &Compatibility,
        patience: Duration,
    ) -> Result<Self, PinError> {
        let root = Directory::make_root(root)?;
        let lock = Lock::take(&root, patience)?;
        let name = agreement.directory();
        let adopted = match root.below(&name)? {
            Some(left) if left.has(persisted::STATE) && fits(&left, agreement) => {
                Some(Arc::new(Persisted::open(&left)?))
            }
            // The directory was never finished, or was tampered with.
            Some(_) => dismantle(&root, OsStr::new(&name)).map(|_| None)?,
            None => None,
        };
        let layout = root.make_below(&name)?;
        let maps = agreement.maps.iter().map(|map| map.name.clone());
        Ok(Self {
            links: Arc::new(layout.make_below(LINKS)?),
            programs: layout.make_below(PROGRAMS)?,
            maps: maps.collect(),
            root,
            name,
            layout,
            keep: AtomicBool::new(adopted.is_some()),
            adopted,
            _lock: lock,
        })
    }

    /// The directory of these maps and links.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.layout.path()
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
        let state = self.adopted.as_ref();
        let state = state.map(|_| self.layout.way(persisted::STATE));
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
        Persisted::create(&self.layout, seeds).map(Arc::new)
    }

    /// Names of the maps that are pinned.
    pub(crate) fn maps(&self) -> Vec<String> {
        self.maps.clone()
    }

    /// Path of a map's pin, by way of the open directory.
    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.layout.way(name)
    }

    /// Pins the link of a hook.
    pub(crate) fn pin_link(
        &self,
        link: impl AsFd,
        interface: u32,
        slot: Slot,
    ) -> Result<Pin, PinError> {
        let name = slot.file(interface);
        // A pin that is there is of a gone interface, whose index was reused.
        self.links.unpin(OsStr::new(&name))?;
        let pinned = self.links.pin(link, &name);
        let pin = Pin {
            directory: Arc::clone(&self.links),
            name: name.into(),
        };
        pinned.map_err(|source| PinError::call("pin the link", pin.to_string(), source))?;
        Ok(pin)
    }

    /// Pins the programs that filters are about to run. By their ids the next agent recognises its
    /// predecessor's filters.
    pub(crate) fn pin_programs<'p>(
        &self,
        programs: impl Iterator<Item = &'p LoadedProgram>,
    ) -> Result<(), PinError> {
        for program in programs {
            let file = format!("{}-{}", program.name, program.id);
            let pinned = self.programs.pin(program, &file);
            let path = || self.programs.path().join(&file);
            pinned.map_err(|source| PinError::call("pin the program", path(), source))?;
        }
        Ok(())
    }

    /// The hooks of the last agent.
    pub(crate) fn inheritance(&self) -> Result<Adoption, PinError> {
        Adoption::read(&self.layout)
    }

    /// Names of the directories of other layouts.
    pub(crate) fn others(&self) -> Result<Vec<OsString>, PinError> {
        let mut others = layouts(&self.root)?;
        others.retain(|name| *name != *self.name);
        Ok(others)
    }

    /// The hooks that are pinned in the directory of another layout.
    pub(crate) fn inheritance_of(&self, other: &OsStr) -> Result<Adoption, PinError> {
        let other = self.root.below(other)?;
        other.map_or_else(|| Ok(Adoption::default()), |other| Adoption::read(&other))
    }

    /// Removes the pins of another layout, and returns their paths.
    pub(crate) fn dismantle(&self, other: &OsStr) -> Result<Vec<PathBuf>, PinError> {
        dismantle(&self.root, other)
    }
}

/// Makes the directory of pins if it does not exist, takes it from others, and looks whether a
/// process that is no agent has its lock.
///
/// # Errors
/// As [`Pins::open`], but nobody waits for another agent.
pub fn prepare(root: &Path) -> Result<(), PinError> {
    Lock::refuse_strangers(&Directory::make_root(root)?)
}

impl Drop for Pins {
    fn drop(&mut self) {
        if self.are_kept() {
            return;
        }
        if let Err(error) = dismantle(&self.root, OsStr::new(&self.name)) {
            tracing::error!("{error}");
        }
        // The directory stays if something else is in it: then it is not ours alone.
        let _ = fs::remove_dir(self.root.path());
    }
}

/// Names of the directories of layouts in a directory.
pub(crate) fn layouts(root: &Directory) -> Result<Vec<OsString>, PinError> {
    let mut names = root.directories()?;
    names.retain(|name| name.to_str().is_some_and(is_layout));
    Ok(names)
}

/// Removes the pins of one layout, and returns their paths. Links go first: what is measured no
/// more needs no maps. What is not ours stays, and so does the directory then.
pub(crate) fn dismantle(root: &Directory, name: &OsStr) -> Result<Vec<PathBuf>, PinError> {
    let mut removed = Vec::new();
    let Some(layout) = root.below(name)? else {
        return Ok(removed);
    };
    for part in [LINKS, PROGRAMS] {
        if let Some(directory) = layout.below(part)? {
            empty(&directory, &mut removed)?;
            remove(&layout, OsStr::new(part))?;
        }
    }
    empty(&layout, &mut removed)?;
    remove(root, name)?;
    Ok(removed)
}

/// Removes the pins in a directory, and adds their paths to those that were removed.
fn empty(directory: &Directory, removed: &mut Vec<PathBuf>) -> Result<(), PinError> {
    for name in directory.pins()? {
        if directory.unpin(&name)? {
            removed.push(directory.path().join(name));
        }
    }
    Ok(())
}

/// Removes a directory that was emptied.
fn remove(parent: &Directory, name: &OsStr) -> Result<(), PinError> {
    if !parent.remove_below(name)? {
        let directory = parent.path().join(name);
        tracing::warn!(directory = %directory.display(), "the pin directory contains files that are not the agent's; they stay");
    }
    Ok(())
}

/// True if the pinned maps are those that this build expects. The directory's name says so, but
/// anybody who may write there could have put others under their names.
fn fits(directory: &Directory, agreement: &Compatibility) -> bool {
    let wrong = agreement.maps.iter().find(|expected| {
        let info = MapData::from_pin(directory.way(&expected.name)).and_then(|map| map.info());
        !info.is_ok_and(|info| {
            let kind = info.map_type().map_or(0, |kind| kind as u32);
            let [expected_kind, sizes @ ..] = expected.properties;
            kind == expected_kind && sizes == [info.key_size(), info.value_size(), info.map_flags()]
        })
    });
    if let Some(map) = wrong {
        tracing::warn!(directory = %directory.path().display(), map = map.name, "a pinned map is missing or has another layout: the agent creates all maps again");
    }
    wrong.is_none()
}
