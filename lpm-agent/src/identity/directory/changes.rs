//! Applies changes of single names: a pod comes or goes among 100,000 others.

use std::{
    io,
    sync::{Arc, PoisonError, atomic::Ordering},
};

use super::{Directory, next_generation};
use crate::{
    identity::{merge::Delta, ranges},
    kernel::maps::NameMaps,
};

impl Directory {
    /// Applies these changes, here and in the kernel. The first call prepares the kernel even
    /// without changes. Known flows look up their names again if the kernel has anything new.
    ///
    /// # Errors
    /// The kernel refuses an entry because its map is gone. The other changes are applied
    /// nevertheless. A refused address has no name rather than its old one. An address that finds
    /// the map full has none either, and is counted ([`Self::names_refused`]).
    pub fn apply(&self, tables: &dyn NameMaps, changes: &[Delta]) -> io::Result<()> {
        let top = self.note(changes);
        let mut ids = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        let wanted: Vec<_> = changes
            .iter()
            .map(|(range, name)| {
                let value = name.as_deref().map(|name| self.value(&mut ids, name, top));
                (ranges::key(*range), value)
            })
            .collect();
        drop(ids);
        self.remember(tables)?;
        let mut kernel = self.in_kernel();
        let made = kernel.change(tables, wanted);
        let fresh = tables.generation().load(Ordering::Relaxed) == 0;
        if fresh || !matches!(made, Ok(false)) {
            next_generation(tables);
        }
        made.map(drop)
    }

    /// Ends the takeover once all names are known: removes the names from the kernel that the last
    /// agent left there and that do not hold any more.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn settle(&self, tables: &dyn NameMaps) -> io::Result<()> {
        let wanted = self.ranges(&self.names(), 0);
        self.put(tables, &wanted)
    }

    /// Applies the changes here. Returns how many members may be told apart at once.
    fn note(&self, changes: &[Delta]) -> u16 {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        let now = Arc::make_mut(&mut names);
        for (range, name) in changes {
            self.note_here(*range, name.as_ref());
            match name {
                Some(name) => now.insert(*range, Arc::clone(name)),
                None => drop(now.remove(*range)),
            }
        }
        // Counting all members at each change would cost more than the change.
        let few = usize::from(self.levels.top).saturating_mul(16);
        if now.len() <= few {
            self.at_once(now)
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::{identity::Name, kernel::maps::memory::Memory};

    fn change(last: u8, namespace: Option<&str>) -> Delta {
        let name = namespace.map(|namespace| {
            Arc::new(Name {
                namespace: Some(namespace.into()),
                ..Name::default()
            })
        });
        (IpAddr::from([198, 18, 0, last]).into(), name)
    }

    #[test]
    fn the_kernel_follows_each_change() {
        let (tables, directory) = (Memory::new(4, 2, 1), Directory::default());
        let generation = || tables.control.generation.load(Ordering::Relaxed);
        let apply = |changes: &[Delta]| directory.apply(&tables, changes).expect("apply");
        apply(&[]);
        assert_eq!(generation(), 1, "the kernel is ready");
        apply(&[change(1, Some("a")), change(2, Some("b"))]);
        assert_eq!(generation(), 2, "one for both");
        apply(&[change(1, Some("a")), change(9, None)]);
        assert_eq!(generation(), 2, "nothing new");
        apply(&[change(1, None), change(2, Some("a"))]);
        assert_eq!(generation(), 3);
        let kernel = tables.names.lock().expect("names").clone();
        assert_eq!(kernel.len(), 1);
        assert_eq!(kernel[0].0.address[15], 2);
        assert_eq!(kernel[0].1.id.namespace(), 1);
        assert!(directory.lookup([198, 18, 0, 1].into()).is_none());
        let name = directory.lookup([198, 18, 0, 2].into()).expect("a name");
        assert_eq!(name.namespace.as_deref(), Some("a"));
    }
}
