//! Evidence for interfaces that carry one direction only. It comes from the flows and from two maps
//! of the kernel programs, `HOMES` and `FORWARDED`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, atomic::Ordering},
};

use aya::maps::{HashMap, MapData, MapError};

use crate::{
    kernel::one_sided::{DirectionCounts, Evidence},
    passive::{Model, directions},
};

/// [`Evidence`] from the model and from the maps `HOMES` and `FORWARDED`.
pub(super) struct OneSided {
    model: Arc<Model>,
    homes: HashMap<MapData, [u32; 4], u32>,
    forwarded: HashMap<MapData, u32, u64>,
    /// Indices of the interfaces whose ambiguous VLANs were logged.
    doubted: BTreeSet<u32>,
}

impl OneSided {
    pub(super) fn new(
        model: Arc<Model>,
        homes: HashMap<MapData, [u32; 4], u32>,
        forwarded: HashMap<MapData, u32, u64>,
    ) -> Self {
        Self {
            model,
            homes,
            forwarded,
            doubted: BTreeSet::new(),
        }
    }

    /// Logs, once per interface, that flows are not measured there because several VLANs could hold
    /// their other direction.
    fn say_doubts(&mut self) {
        let doubtful = &self.model.tables().control().doubtful;
        let index = doubtful.swap(0, Ordering::Relaxed);
        if index == 0 || self.doubted.contains(&index) {
            return;
        }
        let links = self.model.links();
        self.doubted.retain(|known| links.contains_key(known));
        if let Some(link) = links.get(&index) {
            self.doubted.insert(index);
            tracing::warn!(
                interface = %link.name,
                "the two directions of some flows are in different VLANs here, and more than one \
                 VLAN could carry the other direction. Such flows are not measured \
                 (lpm_vlan_joins_total, result ambiguous): watch the interfaces of these VLANs \
                 instead of the one that carries them all"
            );
        }
    }
}

impl Evidence for OneSided {
    fn look(&mut self) -> BTreeMap<u32, DirectionCounts> {
        self.say_doubts();
        // Without clocks nothing can be concluded. The housekeeping thread, which ends the windows,
        // reports the error.
        let Ok(clock) = self.model.clock() else {
            return BTreeMap::new();
        };
        let mut all = directions::of_interfaces(self.model.tables(), &clock);
        for (ifindex, sides) in &mut all {
            sides.forwarded = self.forwarded.get(ifindex, 0).unwrap_or(0);
        }
        all
    }

    fn join(&mut self, ifindex: u32) -> io::Result<()> {
        self.forwarded
            .insert(ifindex, 0, 0)
            .map_err(io::Error::other)
    }

    fn part(&mut self, ifindex: u32) -> io::Result<()> {
        absent_is_fine(self.forwarded.remove(&ifindex))?;
        let homes = self.homes.iter();
        let left: Vec<[u32; 4]> = homes
            .filter_map(Result::ok)
            .filter(|(_, home)| *home == ifindex)
            .map(|(address, _)| address)
            .collect();
        for address in left {
            absent_is_fine(self.homes.remove(&address))?;
        }
        Ok(())
    }
}

fn absent_is_fine(removed: Result<(), MapError>) -> io::Result<()> {
    match removed {
        Ok(()) | Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(error) => Err(io::Error::other(error)),
    }
}
