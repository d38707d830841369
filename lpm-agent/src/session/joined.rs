//! What tells which interfaces carry one direction only: the flows, and two maps of the kernel
//! programs.

use std::{collections::BTreeMap, io, sync::Arc};

use aya::maps::{HashMap, MapData, MapError};

use crate::{
    kernel::one_sided::{Evidence, Sides},
    passive::{Model, sides},
};

/// Over the model and the maps `HOMES` and `FORWARDED`.
pub(super) struct Joined {
    model: Arc<Model>,
    homes: HashMap<MapData, [u32; 4], u32>,
    forwarded: HashMap<MapData, u32, u64>,
}

impl Joined {
    pub(super) fn new(
        model: Arc<Model>,
        homes: HashMap<MapData, [u32; 4], u32>,
        forwarded: HashMap<MapData, u32, u64>,
    ) -> Self {
        Self {
            model,
            homes,
            forwarded,
        }
    }
}

impl Evidence for Joined {
    fn look(&mut self) -> BTreeMap<u32, Sides> {
        // Without clocks nothing can be concluded; whoever ends the windows says so.
        let Ok(clock) = self.model.clock() else {
            return BTreeMap::new();
        };
        let mut all = sides::of_interfaces(self.model.tables(), &clock);
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
