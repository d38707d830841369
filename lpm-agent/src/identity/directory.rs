//! The directory of names, kept equal for the exporters and for the kernel.

mod behind;
mod changes;
mod expiry;
mod kernel;
mod local_pods;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, atomic::Ordering,
    },
};

use ipnet::IpNet;
use lpm_common::layout::{NameId, NameValue, PeerKind};

use self::kernel::{InKernel, Ranges};
pub use self::local_pods::PodKey;
use super::{
    Name, PrefixMap,
    ids::{Ids, Levels, Member},
    labels::Chosen,
    names_file::{self, Kind},
    peers::NamePublisher,
    resolver::{LocalEnd, LocalEnds, Resolver},
    status::Status,
};
use crate::kernel::maps::NameMaps;

/// An id that nobody has. Under it the levels are remembered that rows were told apart by.
const LEVELS: NameId = NameId(0);

/// The directory: ids of namespaces and their members, and names by address.
#[derive(Debug, Default)]
pub struct Directory {
    levels: Levels,
    /// Levels of the last agent, if its rows go on.
    earlier: OnceLock<Levels>,
    names: RwLock<Arc<PrefixMap>>,
    ids: RwLock<Ids>,
    local: RwLock<Arc<LocalEnds>>,
    node: Option<Arc<str>>,
    labels: Chosen,
    /// Names of this node's pods.
    here: RwLock<BTreeMap<IpNet, Arc<Name>>>,
    /// The names that the kernel has now.
    kernel: Mutex<InKernel>,
    status: Arc<Status>,
    board: Arc<NamePublisher>,
}

impl Directory {
    /// Makes a directory that tells apart what these levels say.
    #[must_use]
    pub fn new(levels: Levels) -> Self {
        Self {
            levels,
            ..Self::default()
        }
    }

    /// The levels: what is told apart within namespaces.
    #[must_use]
    pub fn levels(&self) -> &Levels {
        &self.levels
    }

    /// Takes over the ids and the kernel's names of the last agent. Call it before
    /// [`Directory::update`].
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

    /// State of the sources of names.
    #[must_use]
    pub fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// The publisher of this node's pods, which other nodes' agents listen to.
    #[must_use]
    pub fn board(&self) -> &Arc<NamePublisher> {
        &self.board
    }

    /// The name of an address.
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<Arc<Name>> {
        self.names
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .lookup(address)
            .cloned()
    }

    /// All names as they are now, for many lookups in a row.
    #[must_use]
    pub fn names(&self) -> Arc<PrefixMap> {
        Arc::clone(&self.names.read().unwrap_or_else(PoisonError::into_inner))
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
        let member = self.levels.member(name, true);
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

    /// Sets the local end of an interface of this node. None: its flows' local ends are named by
    /// address.
    pub fn set_local(&self, index: u32, end: Option<LocalEnd>) {
        let mut local = self.local.write().unwrap_or_else(PoisonError::into_inner);
        if local.get(&index) == end.as_ref() {
            return;
        }
        let local = Arc::make_mut(&mut local);
        match end {
            Some(end) => drop(local.insert(index, end)),
            None => drop(local.remove(&index)),
        }
    }

    /// The local ends of this node's interfaces, by index, as far as the interface decides.
    #[must_use]
    pub fn local(&self) -> Arc<LocalEnds> {
        Arc::clone(&self.local.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A resolver for the ends of flows with the current names, for many flows in a row.
    #[must_use]
    pub fn whose(&self) -> Resolver {
        Resolver::new(self.names(), self.local())
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

    /// Sets all names, with the node's own addresses, here and in the kernel. Known flows look up
    /// their names again at their next packet.
    ///
    /// # Errors
    /// The kernel refuses an entry because its map is gone. A name that finds no room is left out,
    /// which is no error.
    pub fn update(
        &self,
        tables: &dyn NameMaps,
        names: &PrefixMap,
        own: &[IpAddr],
    ) -> io::Result<()> {
        let names = Arc::new(with_own(names, own));
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&names);
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
    /// As [`Self::update`].
    pub fn tell_apart(
        &self,
        tables: &dyn NameMaps,
        packets: &HashMap<IpAddr, u64>,
    ) -> io::Result<()> {
        let names = self.names();
        let mut waiting: BTreeMap<(&str, Member), u64> = BTreeMap::new();
        let known = self.ids();
        for (address, packets) in packets {
            let Some(name) = names.lookup(*address) else {
                continue;
            };
            let member = self.levels.member(name, false);
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
            .filter_map(|(_, _, name)| Some((&name.namespace, self.levels.member(name, false)?)))
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
        let member = self.levels.member(name, false);
        let id = name.namespace.as_deref().map_or(NameId(0), |namespace| {
            ids.member(namespace, member.as_ref(), top)
        });
        NameValue {
            own: u8::from(name.own),
            stands: u8::from(self.levels.workload && name.kind == Kind::Service),
            ..NameValue::new(id, PeerKind::from(name.kind))
        }
    }
}

/// Adds the node's own addresses, with the names of the names file or as [`super::HOST`].
fn with_own(names: &PrefixMap, own: &[IpAddr]) -> PrefixMap {
    let mut all = names.clone();
    for address in own {
        all.insert(
            (*address).into(),
            Arc::new(names_file::own(names, *address, None)),
        );
    }
    all
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
