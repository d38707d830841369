//! What gone agents pinned, under whatever name it is now; and their programs that are still loaded
//! when all that could be found is removed.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fs, io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use aya::{maps::MapInfo, programs::loaded_links};

use super::{
    super::{
        bpf::{self, LinkPlace},
        holders,
        ownership::{self, Ours},
        pins::{self, Directory, Holder, Lock, PinError},
    },
    DetachError, Leftover, Report, Trace,
};

/// Directories below the configured one that are searched: a layout's, and those in it.
const DEPTH: usize = 3;

/// Letters that the kernel keeps of a map's name (`BPF_OBJ_NAME_LEN` without the zero).
const NAME: usize = 15;

/// Longest time that the kernel takes to unload a program after its last pin has gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// Interval between two looks at what is loaded.
const EVERY: Duration = Duration::from_millis(10);

/// Removes the pins of every layout in a directory, if no agent holds it, and pins of ours that
/// somebody moved to other directories in it. All else there stays.
pub(super) fn unpin(path: &Path, report: &mut Report) -> Result<(), DetachError> {
    let refused = |error: PinError| DetachError::List {
        what: path.display().to_string(),
        source: io::Error::other(error.to_string()),
    };
    let trace = |path| Trace::Pin { path };
    let Some(root) = Directory::look(path).map_err(refused)? else {
        return Ok(());
    };
    let _lock = match Lock::try_take(&root).map_err(refused)? {
        Ok(lock) => Some(lock),
        // Who is no agent keeps nobody from tidying up.
        Err(Holder::Stranger { .. }) => None,
        Err(Holder::Agent(pid)) => {
            let used = (pid.unwrap_or(0), trace(path.to_owned()));
            report.in_use.push(used);
            return Ok(());
        }
    };
    let search = Search::new();
    for name in root.directories().map_err(refused)? {
        let layout = name.to_str().is_some_and(pins::is_layout);
        let removed = if layout {
            pins::dismantle(&root, &name).map(|removed| {
                report.removed.extend(removed.into_iter().map(trace));
            })
        } else {
            search.remove_below(&root, &name, DEPTH, report).map(drop)
        };
        if let Err(error) = removed {
            let failed = (trace(path.join(&name)), error.to_string());
            report.failed.push(failed);
        }
    }
    // What was moved into the directory itself.
    if let Err(error) = search.remove_in(&root, report) {
        report
            .failed
            .push((trace(path.to_owned()), error.to_string()));
    }
    // It fails if something is left, which is not ours or has been reported.
    let _ = fs::remove_dir(path);
    Ok(())
}

/// Pins of ours are recognised by what is pinned, not by their names.
struct Search {
    /// Programs of ours that no process holds.
    programs: BTreeSet<u32>,
    /// Maps of these programs alone.
    maps: BTreeSet<u32>,
    /// Maps of programs of ours that a process holds.
    in_use: BTreeSet<u32>,
}

impl Search {
    /// Looks which programs of ours are loaded that no process holds, and at their maps.
    fn new() -> Self {
        let held = holders::programs();
        let (used, left): (Vec<Ours>, Vec<Ours>) = ownership::loaded()
            .into_iter()
            .partition(|program| held.contains_key(&program.id));
        let in_use: BTreeSet<u32> = used.into_iter().flat_map(|program| program.maps).collect();
        let programs = left.iter().map(|program| program.id).collect();
        let maps = left.into_iter().flat_map(|program| program.maps);
        Self {
            programs,
            maps: maps.filter(|map| !in_use.contains(map)).collect(),
            in_use,
        }
    }

    /// Removes pins of ours in a directory and in those in it. Returns whether there were any.
    fn remove_below(
        &self,
        parent: &Directory,
        name: &OsStr,
        depth: usize,
        report: &mut Report,
    ) -> Result<bool, PinError> {
        let Some(directory) = parent.below(name)? else {
            return Ok(false);
        };
        let mut found = false;
        if depth > 1 {
            for inner in directory.directories()? {
                found |= self.remove_below(&directory, &inner, depth - 1, report)?;
            }
        }
        found |= self.remove_in(&directory, report)?;
        if found {
            // What is not empty stays.
            for inner in directory.directories()? {
                directory.remove_below(&inner)?;
            }
            parent.remove_below(name)?;
        }
        Ok(found)
    }

    /// Removes the pins of ours in one directory. Returns whether there were any.
    fn remove_in(&self, directory: &Directory, report: &mut Report) -> Result<bool, PinError> {
        let mut ours: Vec<OsString> = Vec::new();
        let mut beside: Vec<OsString> = Vec::new();
        for name in directory.pins()? {
            let object = directory.open_pin(&name).ok();
            match object.map(|object| self.judge(&name, &object)) {
                Some(Whose::Ours) => ours.push(name),
                Some(Whose::Beside) => beside.push(name),
                Some(Whose::Other) | None => {}
            }
        }
        if ours.is_empty() {
            return Ok(false);
        }
        for name in ours.into_iter().chain(beside) {
            if directory.unpin(&name)? {
                let path = directory.path().join(&name);
                report.removed.push(Trace::Pin { path });
            }
        }
        Ok(true)
    }

    fn judge(&self, name: &OsStr, object: &OwnedFd) -> Whose {
        let info = format!("/proc/self/fdinfo/{}", object.as_raw_fd());
        let info = fs::read_to_string(info).unwrap_or_default();
        // A link's description has the number of its program as well.
        if let Some(program) = holders::number(&info, "prog_id") {
            return Whose::of(self.programs.contains(&program));
        }
        let Some(map) = holders::number(&info, "map_id") else {
            return Whose::Other;
        };
        if self.maps.contains(&map) {
            return Whose::Ours;
        }
        let named = MapInfo::from_id(map).is_ok_and(|map| {
            let name = name.as_encoded_bytes();
            map.name() == &name[..name.len().min(NAME)]
        });
        if named && !self.in_use.contains(&map) {
            Whose::Beside
        } else {
            Whose::Other
        }
    }
}

/// The owner of a pin.
enum Whose {
    /// Ours.
    Ours,
    /// A map under its own name that no program in use has. It is ours if others beside it are:
    /// some maps no program uses, or one that is unloaded already.
    Beside,
    /// Somebody else's.
    Other,
}

impl Whose {
    fn of(ours: bool) -> Self {
        if ours { Self::Ours } else { Self::Other }
    }
}

/// The programs of ours that are loaded and that no process holds, now that `report` says what was
/// removed. The kernel gets some time to unload those.
pub(super) fn leftovers(before: &[Ours], report: &Report) -> Vec<Leftover> {
    let begun = Instant::now();
    loop {
        let held = holders::programs();
        let mut left = ownership::loaded();
        left.retain(|program| !held.contains_key(&program.id));
        let may_go = !report.removed.is_empty() && left.iter().any(|one| before.contains(one));
        if left.is_empty() || !may_go || begun.elapsed() > PATIENCE {
            let hooks = hooks();
            let leftover = |program: Ours| Leftover {
                hooks: hooks.get(&program.id).cloned().unwrap_or_default(),
                program: program.id,
                name: program.name,
            };
            return left.into_iter().map(leftover).collect();
        }
        thread::sleep(EVERY);
    }
}

/// Where links hold programs, by the program's id.
fn hooks() -> BTreeMap<u32, Vec<String>> {
    let mut hooks = BTreeMap::<u32, Vec<String>>::new();
    for link in loaded_links().flatten() {
        let place = bpf::link_by_id(link.id()).and_then(bpf::link_place);
        let place = match place {
            Ok(LinkPlace::Tcx(interface, direction)) => {
                format!("the {direction} of the interface with index {interface}")
            }
            Ok(LinkPlace::Xdp(interface)) => {
                format!("XDP of the interface with index {interface}")
            }
            _ => continue,
        };
        let at = format!("link {} at {place}", link.id());
        hooks.entry(link.program_id()).or_default().push(at);
    }
    hooks
}
