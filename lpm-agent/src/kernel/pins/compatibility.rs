//! Compatibility of two agents: what must be equal so that one can go on with the other's maps. It
//! makes the name of the directory that the maps are pinned in.

use std::{fmt::Write as _, fs, os::unix::fs::MetadataExt as _};

use aya_obj::Object;
use lpm_common::layout::LAYOUT_VERSION;

use super::super::{attach::Mode, load::LoadError, settings::LoadSettings};
use crate::fnv::fnv;

/// Maps that hold nothing for a successor: a packet on its way, samples for watchers, and
/// connections, which the successor lists itself before its programs run.
const TRANSIENT: [&str; 4] = ["SAMPLES", "SCRATCH", "TUPLE", "BACKENDS"];

/// Prefixes of the names of maps that belong to aya.
const FOREIGN: [&str; 2] = [".", "AYA_"];

/// A pinned map, as the object defines it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Definition {
    pub(crate) name: String,
    /// Type, key size, value size and flags. Sizes follow from the settings.
    pub(crate) properties: [u32; 4],
}

/// The text of all that must be equal.
#[derive(Debug, Clone)]
pub struct Compatibility {
    pub(super) maps: Vec<Definition>,
    version: u32,
    text: String,
}

impl Compatibility {
    /// Computes the compatibility of this build with these settings, in the calling thread's
    /// network namespace or another. `version` replaces the version of the layout, for tests of
    /// upgrades.
    ///
    /// # Errors
    /// The object cannot be read.
    pub(crate) fn new(
        object: &[u8],
        settings: &LoadSettings,
        mode: Mode,
        netns: &str,
        version: Option<u32>,
    ) -> Result<Self, LoadError> {
        let object = Object::parse(object).map_err(|source| LoadError::Object {
            source: Box::new(source.into()),
        })?;
        let mut maps: Vec<Definition> = object
            .maps
            .into_iter()
            .filter(|(name, _)| is_kept(name))
            .map(|(name, map)| Definition {
                name,
                properties: [
                    map.map_type(),
                    map.key_size(),
                    map.value_size(),
                    map.map_flags(),
                ],
            })
            .collect();
        maps.sort();
        let mut text = format!("{:?} {mode:?} {netns} {maps:?}", shared(settings));
        // The C library's clock tick counts: with another tick, words of jiffies mean another time.
        let _ = write!(text, " {}", super::super::settings::jiffies_per_second());
        Ok(Self {
            maps,
            version: version.unwrap_or(LAYOUT_VERSION),
            text,
        })
    }

    /// Name of the directory.
    pub(super) fn directory(&self) -> String {
        format!("v{}-{:016x}", self.version, fnv(&self.text))
    }
}

/// True if a map is pinned.
fn is_kept(name: &str) -> bool {
    !TRANSIENT.contains(&name) && !FOREIGN.iter().any(|begin| name.starts_with(begin))
}

/// The settings that the content of the maps depends on. The others may change from one agent to
/// the next. The secrets of the hash are kept beside the maps.
fn shared(settings: &LoadSettings) -> LoadSettings {
    LoadSettings {
        seeds: [0; lpm_common::hash::SEEDS],
        idle_seconds: 0,
        samples_bytes: 0,
        tunnels: lpm_common::parse::tunnel::TunnelPorts::default(),
        xdp: false,
        ..settings.clone()
    }
}

/// True if a directory may be one of ours, of any version.
pub(crate) fn is_directory(name: &str) -> bool {
    let parts = name.strip_prefix('v').and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(version, hash)| {
        version.parse::<u32>().is_ok()
            && hash.len() == 16
            && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// Identifies a network namespace among those that exist at the same time. Interface indices are
/// unique only within one.
pub(crate) fn netns_of(path: Option<&str>) -> String {
    let path = match path {
        None => "/proc/thread-self/ns/net".to_owned(),
        Some(name) if name.contains('/') => name.to_owned(),
        Some(name) => format!("/run/netns/{name}"),
    };
    fs::metadata(path).map_or_else(
        |_| "?".to_owned(),
        |file| format!("{}:{}", file.dev(), file.ino()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_directories() {
        assert!(is_directory("v2-0123456789abcdef"));
        for other in [
            "v2",
            "2-0123456789abcdef",
            "v2-0123",
            "vx-0123456789abcdef",
            "links",
        ] {
            assert!(!is_directory(other), "{other}");
        }
    }

    #[test]
    fn settings_that_must_agree() {
        let agreement = |settings: &LoadSettings| format!("{:?}", shared(settings));
        let settings = LoadSettings::new();
        let other = LoadSettings {
            idle_seconds: 7,
            xdp: true,
            ..LoadSettings::new()
        };
        assert_eq!(
            agreement(&settings),
            agreement(&other),
            "another seed, another idle time"
        );
        let other = LoadSettings {
            rows: 64,
            ..settings.clone()
        };
        assert_ne!(agreement(&settings), agreement(&other));
    }

    #[test]
    fn what_a_successor_needs_is_kept() {
        for name in ["FLOWS", "HISTOGRAMS", "NAMES", "CLAIMS"] {
            assert!(is_kept(name), "{name}");
        }
        for name in [".rodata", ".data", "SAMPLES", "SCRATCH", "AYA_LOGS"] {
            assert!(!is_kept(name), "{name}");
        }
    }
}
