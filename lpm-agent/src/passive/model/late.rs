//! Round trips under the name of an address's former owner.

use std::{collections::HashMap, io, net::IpAddr, sync::atomic::Ordering, time::SystemTime};

use super::{Flow, Model, UNKNOWN};
use crate::identity::merge::Moved;

impl Model {
    /// These addresses had changed hands before the news of it came; to be called before they get
    /// their new names. What was counted of connections that began in between bears the former
    /// owner's name: a connection with the former owner itself cannot have begun then.
    ///
    /// # Errors
    /// The clocks cannot be read.
    pub fn count_late(&self, moved: &[Moved]) -> io::Result<()> {
        let mut since: HashMap<IpAddr, SystemTime> = HashMap::new();
        for Moved { address, since: at } in moved {
            let known = since.entry(*address).or_insert(*at);
            *known = (*known).max(*at);
        }
        let clock = self.clock()?;
        let flows = (0..self.tables.flow_count())
            .filter_map(|index| Flow::read(index, self.tables.flow(index)?));
        let late = flows.filter(|flow| {
            let since = since.get(&flow.remote);
            since.is_some_and(|since| clock.wall(flow.first_seen) >= *since)
                && self.is_named(flow.row)
        });
        let samples = late.flat_map(|flow| flow.legs.map(|leg| u64::from(leg.samples)));
        self.late.fetch_add(samples.sum(), Ordering::Relaxed);
        Ok(())
    }

    /// Round trips so far that were counted under the name of an address's former owner.
    #[must_use]
    pub fn late(&self) -> u64 {
        self.late.load(Ordering::Relaxed)
    }

    /// Whether the round trips of a row are somebody's with a name.
    fn is_named(&self, row: u16) -> bool {
        let labels = self.row_labels(usize::from(row));
        labels.is_some_and(|labels| {
            row != 0 && !labels.peer_namespace.is_empty() && *labels.peer_namespace != *UNKNOWN
        })
    }
}
