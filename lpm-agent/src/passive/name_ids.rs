//! The names as the kernel programs have them: ids by address, which follow the [`Registry`].

mod behind;
mod changes;
mod expiry;
mod kernel;
mod places;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, atomic::Ordering,
    },
};

use lpm_common::layout::{NameId, NameValue, PeerKind};

use self::kernel::{InKernel, Ranges};
use crate::{
    identity::{
        Levels, Member, Name, PrefixMap, Registry, ids::Ids, names_file::Kind, registry::Zones,
    },
    kernel::maps::NameMaps,
};

/// An id that nobody has. Under it the levels are remembered that rows were told apart by.
const LEVELS: NameId = NameId(0);

/// Ids of namespaces and their members, and the kernel's names with these ids. It follows the changes
/// of a [`Registry`].
#[derive(Debug, Default)]
pub struct NameIds {
    levels: Levels,
    /// Levels of the last agent, if its rows go on.
    earlier: OnceLock<Levels>,
    ids: RwLock<Ids>,
    /// The names that the kernel has now.
    kernel: Mutex<InKernel>,
    registry: Arc<Registry>,
    /// The nodes' zones that the kernel's names have.
    zones: Mutex<Arc<Zones>>,
}

impl NameIds {
    /// Ids for the names of a registry, with these levels.
    #[must_use]
    pub fn new(levels: Levels, registry: Arc<Registry>) -> Self {
        Self {
            levels,
            registry,
            ..Self::default()
        }
    }

    /// The registry that the ids follow.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The levels: what is told apart within namespaces.
    #[must_use]
    pub fn levels(&self) -> &Levels {
        &self.levels
    }

    /// Goes on with the ids and the kernel's names as an agent before this one left them; to be
    /// called before [`Self::follow`].
    ///
    /// # Errors
    /// The kernel's maps cannot be read.
    pub fn resume(&self, tables: &dyn NameMaps) -> io::Result<()> {
        let mut left = tables.remembered()?;
        // Namespaces come before their members.
        left.sort_by_key(|(id, _)| (id.member(), id.namespace()));
        let mut ids = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        let mut earlier = None;
        let resumes = !left.is_empty();
        for (id, text) in left {
            if id == LEVELS {
                earlier = serde_json::from_str(&text).ok();
            } else {
                ids.resume(id, &text);
            }
        }
        if resumes {
            // Older agents did not store their levels.
            let told = self.earlier.set(earlier.unwrap_or_else(|| ids.levels()));
            debug_assert!(told.is_ok(), "an agent resumes once");
        }
        let mut kernel = self.in_kernel();
        let left = tables.names()?.into_iter();
        kernel.resume(
            left.map(|(key, value)| ((key.prefix_len, key.address), value))
                .collect(),
        );
        Ok(())
    }

    /// Stores new ids for the next agent, before the kernel sees them.
    fn remember(&self, tables: &dyn NameMaps) -> io::Result<()> {
        let mut ids = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        ids.remember(|id, text| tables.remember(id, text))
    }

    /// Number of names for the kernel, with or without room there.
    #[must_use]
    pub fn names_wanted(&self) -> usize {
        self.in_kernel().wanted()
    }

    /// How often a name found no room in the kernel.
    #[must_use]
    pub fn names_refused(&self) -> u64 {
        self.in_kernel().refused()
    }

    fn in_kernel(&self) -> MutexGuard<'_, InKernel> {
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The namespace with this number. None: no namespace has it.
    #[must_use]
    pub fn namespace(&self, number: u16) -> Option<Arc<str>> {
        self.ids().name(number)
    }

    /// The member with this id. None: the id stands for the namespace as a whole.
    #[must_use]
    pub fn member(&self, id: NameId) -> Option<Arc<Member>> {
        self.ids().who(id)
    }

    /// True if a member could not be told apart because no id was left.
    #[must_use]
    pub fn is_overflown(&self) -> bool {
        self.ids().is_overflown()
    }

    /// The id of the owner of one of this node's interfaces.
    #[must_use]
    pub fn id_here(&self, tables: &dyn NameMaps, name: &Name) -> NameId {
        let member = self.member_at(name, true);
        let mut ids = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        let id = name.namespace.as_deref().map_or(NameId(0), |namespace| {
            ids.member(namespace, member.as_ref(), self.levels.top)
        });
        drop(ids);
        if let Err(error) = self.remember(tables) {
            tracing::error!(%error, "the owner of an interface could not be stored: the next agent will not know whose round trips it carries");
        }
        id
    }

    /// Makes known flows look up their names again, without any change of addresses.
    pub fn rename(&self, tables: &dyn NameMaps) {
        // It waits until no other thread changes the names.
        let _kernel = self.in_kernel();
        next_generation(tables);
    }

    fn ids(&self) -> RwLockReadGuard<'_, Ids> {
        self.ids.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts all names of the registry into the kernel. Known flows look up their names again at their
    /// next packet.
    ///
    /// # Errors
    /// The kernel refuses an entry, its map being gone. One that finds no room has no name.
    pub fn follow_all(&self, tables: &dyn NameMaps) -> io::Result<()> {
        self.follow_zones();
        let names = self.registry.names();
        // If all members fit, each is told apart from the first packet on. Otherwise see
        // `tell_apart`.
        let top = self.at_once(&names);
        self.put(tables, &self.ranges(&names, top))
    }

    /// Number of members that may be told apart before it is known who has the most packets.
    fn at_once(&self, names: &PrefixMap) -> u16 {
        let fits = || self.members(names) <= usize::from(self.levels.top);
        if self.levels.any() && fits() {
            self.levels.top
        } else {
            0
        }
    }

    /// Gives ids of their own to the members with these addresses, those with the most packets
    /// first, as long as ids are left. Known flows look up their names again.
    ///
    /// # Errors
    /// As [`Self::follow_all`].
    pub fn tell_apart(
        &self,
        tables: &dyn NameMaps,
        packets: &HashMap<IpAddr, u64>,
    ) -> io::Result<()> {
        let names = self.registry.names();
        let mut waiting: BTreeMap<(&str, Member), u64> = BTreeMap::new();
        let known = self.ids();
        for (address, packets) in packets {
            let Some(name) = names.lookup(*address) else {
                continue;
            };
            let member = self.member_at(name, false);
            if let (Some(namespace), Some(member)) = (name.namespace.as_deref(), member)
                && !known.is_told_apart(namespace, &member)
            {
                *waiting.entry((namespace, member)).or_default() += packets;
            }
        }
        drop(known);
        let mut waiting: Vec<_> = waiting.into_iter().collect();
        waiting.sort_by_key(|(_, packets)| std::cmp::Reverse(*packets));
        let mut ids = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        let news = waiting.iter().filter(|((namespace, member), _)| {
            let id = ids.member(namespace, Some(member), self.levels.top);
            id.member() != 0
        });
        let news = news.count();
        drop(ids);
        if news == 0 {
            return Ok(());
        }
        self.put(tables, &self.ranges(&names, 0))
    }

    /// Number of members that the levels would tell apart.
    fn members(&self, names: &PrefixMap) -> usize {
        let members: BTreeSet<_> = names
            .ranges()
            .filter_map(|(_, _, name)| Some((&name.namespace, self.member_at(name, false)?)))
            .take(usize::from(self.levels.top) + 1)
            .collect();
        members.len()
    }

    /// Sets all names in the kernel.
    fn put(&self, tables: &dyn NameMaps, wanted: &Ranges) -> io::Result<()> {
        self.remember(tables)?;
        let mut kernel = self.in_kernel();
        let first = tables.generation().load(Ordering::Relaxed) == 0;
        let made = kernel.replace(tables, wanted);
        if first || !matches!(made, Ok(false)) {
            next_generation(tables);
        }
        made.map(drop)
    }

    fn ranges(&self, names: &PrefixMap, top: u16) -> Ranges {
        let mut ids = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        names
            .ranges()
            .map(|(length, address, name)| {
                let value = self.value(&mut ids, name, top);
                ((u32::from(length), address), value)
            })
            .collect()
    }

    /// The value of a name in the kernel's map.
    fn value(&self, ids: &mut Ids, name: &Name, top: u16) -> NameValue {
        let member = self.member_at(name, false);
        let id = name.namespace.as_deref().map_or(NameId(0), |namespace| {
            ids.member(namespace, member.as_ref(), top)
        });
        NameValue {
            own: u8::from(name.own),
            stands: u8::from(self.levels.tell_backends() && name.kind == Kind::Service),
            ..NameValue::new(id, PeerKind::from(name.kind))
        }
    }
}

/// Tells the kernel that names have changed, by a new generation. The kernel keeps 16 bits of it
/// with each flow. 0 is the value of a new entry.
fn next_generation(tables: &dyn NameMaps) {
    let generation = tables.generation();
    let next = (generation.load(Ordering::Relaxed) + 1) & 0xffff;
    generation.store(next.max(1), Ordering::Release);
}

#[cfg(test)]
mod tests;
