//! Applies changes of single names: a pod comes or goes among 100,000 others.

use std::{
    io,
    sync::{PoisonError, atomic::Ordering},
};

use super::{NameIds, next_generation};
use crate::{
    identity::{merge::Delta, ranges},
    kernel::maps::NameMaps,
};

impl NameIds {
    /// Makes the registry's changes in the kernel too. Call it after [`Registry::apply`]. The first
    /// call prepares the kernel even if there are no changes. Known flows look up their names again
    /// if the kernel has anything new.
    ///
    /// # Errors
    /// The kernel refuses an entry because its map is gone. The other changes are made nevertheless.
    /// What was refused has no name, rather than the one it had. A name that finds the map full is
    /// no error, but counted ([`Self::names_refused`]).
    ///
    /// [`Registry::apply`]: crate::identity::Registry::apply
    pub fn follow(&self, tables: &dyn NameMaps, changes: &[Delta]) -> io::Result<()> {
        let top = self.at_once_if_few();
        if self.follow_zones() {
            // Names that did not change may be in other zones now, those of interfaces as well.
            self.put(tables, &self.ranges(&self.registry.names(), top))?;
            self.rename(tables);
            return Ok(());
        }
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
    /// As [`Self::follow`].
    pub fn settle(&self, tables: &dyn NameMaps) -> io::Result<()> {
        let wanted = self.ranges(&self.registry.names(), 0);
        self.put(tables, &wanted)
    }

    /// Number of members that may be told apart at once. It is 0 where there are many names: to count
    /// all members at each change would cost more than the change.
    fn at_once_if_few(&self) -> u16 {
        let names = self.registry.names();
        let few = usize::from(self.levels.top).saturating_mul(16);
        if names.len() <= few {
            self.at_once(&names)
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, sync::Arc};

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
        let (tables, ids) = (Memory::new(4, 2, 1), NameIds::default());
        let generation = || tables.control.generation.load(Ordering::Relaxed);
        let registry = ids.registry();
        let apply = |changes: &[Delta]| {
            registry.apply(changes);
            ids.follow(&tables, changes).expect("follow");
        };
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
        assert!(registry.lookup([198, 18, 0, 1].into()).is_none());
        let name = registry.lookup([198, 18, 0, 2].into()).expect("a name");
        assert_eq!(name.namespace.as_deref(), Some("a"));
    }
}
