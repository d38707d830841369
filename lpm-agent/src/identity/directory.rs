//! Names for the exporters and for the kernel, kept the same.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, RwLock, atomic::Ordering},
};

use lpm_common::layout::{NameKey, NameValue, PeerKind};

use super::{Name, Names, names};
use crate::passive::Tables;

/// Namespace of the node's own sockets, unless the names file names its address.
pub const HOST: &str = "host";

/// Namespaces by small number, names by address.
#[derive(Debug, Default)]
pub struct Directory {
    names: RwLock<Arc<Names>>,
    namespaces: RwLock<Namespaces>,
    /// What the kernel has now.
    kernel: Mutex<Ranges>,
}

/// Keys (prefix length, address) and values of map `NAMES`.
type Ranges = BTreeMap<(u32, [u8; 16]), NameValue>;

/// Gives out namespace ids. An id is never given to another namespace, because rows of histograms
/// that bear it live on.
#[derive(Debug, Default)]
struct Namespaces {
    by_name: HashMap<Arc<str>, u16>,
    by_id: Vec<Arc<str>>,
}

impl Namespaces {
    /// The id of a namespace; 0, which is "none", when all ids are given out.
    fn id(&mut self, name: &str) -> u16 {
        if let Some(id) = self.by_name.get(name) {
            return *id;
        }
        let Ok(id) = u16::try_from(self.by_id.len() + 1) else {
            tracing::warn!(
                namespace = name,
                "no namespace id is left: it is shown as unknown"
            );
            return 0;
        };
        let name: Arc<str> = name.into();
        self.by_id.push(Arc::clone(&name));
        self.by_name.insert(name, id);
        id
    }
}

impl Directory {
    /// The name of an address.
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<Arc<Name>> {
        self.names
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .lookup(address)
            .cloned()
    }

    /// All names as they are now: for many lookups in a row.
    #[must_use]
    pub fn names(&self) -> Arc<Names> {
        Arc::clone(&self.names.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The namespace with this id; `None`: no namespace has it.
    #[must_use]
    pub fn namespace(&self, id: u16) -> Option<Arc<str>> {
        let namespaces = self
            .namespaces
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        namespaces
            .by_id
            .get(usize::from(id.checked_sub(1)?))
            .cloned()
    }

    /// Makes these the names, with the node's own addresses, here and in the kernel. Flows that
    /// are known already are named anew at their next packet.
    ///
    /// # Errors
    /// The kernel refuses an entry: its map is full, or gone.
    pub fn update(&self, tables: &dyn Tables, names: &Names, own: &[IpAddr]) -> io::Result<()> {
        let names = with_own(names, own);
        let wanted = self.ranges(&names, own);
        let mut kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(names);
        let first = tables.control().generation.load(Ordering::Relaxed) == 0;
        if *kernel == wanted && !first {
            return Ok(());
        }
        let gone: Vec<_> = kernel
            .keys()
            .filter(|key| !wanted.contains_key(*key))
            .copied()
            .collect();
        for key in gone {
            tables.remove_name(name_key(key))?;
            kernel.remove(&key);
        }
        for (key, value) in wanted {
            if kernel.get(&key) != Some(&value) {
                tables.set_name(name_key(key), value)?;
                kernel.insert(key, value);
            }
        }
        next_generation(tables);
        Ok(())
    }

    fn ranges(&self, names: &Names, own: &[IpAddr]) -> Ranges {
        let own: Vec<[u8; 16]> = own
            .iter()
            .map(|address| names::bits(*address).to_be_bytes())
            .collect();
        let mut namespaces = self
            .namespaces
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        names
            .ranges()
            .map(|(length, address, name)| {
                let value = NameValue {
                    namespace: name
                        .namespace
                        .as_deref()
                        .map_or(0, |name| namespaces.id(name)),
                    kind: PeerKind::from(name.kind) as u8,
                    own: u8::from(length == 128 && own.contains(&address)),
                };
                ((u32::from(length), address), value)
            })
            .collect()
    }
}

/// Adds the node's own addresses, as the names file has them or as [`HOST`].
fn with_own(names: &Names, own: &[IpAddr]) -> Names {
    let mut all = names.clone();
    for address in own {
        if names.exact(*address).is_none() {
            let name = Name {
                kind: names::Kind::Node,
                namespace: Some(HOST.to_owned()),
                ..Name::default()
            };
            all.insert((*address).into(), name);
        }
    }
    all
}

fn name_key((prefix_len, address): (u32, [u8; 16])) -> NameKey {
    NameKey {
        prefix_len,
        address,
    }
}

/// Tells the kernel that names have changed. It keeps 16 bits of the number with each flow, and 0
/// is what a fresh entry has.
fn next_generation(tables: &dyn Tables) {
    let generation = &tables.control().generation;
    let next = (generation.load(Ordering::Relaxed) + 1) & 0xffff;
    generation.store(next.max(1), Ordering::Release);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::passive::tables::memory::Memory;

    fn names(text: &str) -> Names {
        Names::parse(text, Path::new("names.yaml")).expect("a names file")
    }

    #[test]
    fn the_kernel_follows_the_names() {
        let tables = Memory::new(4, 2, 1);
        let directory = Directory::default();
        let first = names("- {cidr: 198.18.0.0/16, namespace: a}\n");
        directory.update(&tables, &first, &[]).expect("update");
        assert_eq!(tables.control.generation.load(Ordering::Relaxed), 1);
        directory.update(&tables, &first, &[]).expect("update");
        assert_eq!(
            tables.control.generation.load(Ordering::Relaxed),
            1,
            "nothing changed"
        );

        let second = names("- {cidr: 198.19.0.0/16, namespace: b}\n");
        directory.update(&tables, &second, &[]).expect("update");
        assert_eq!(tables.control.generation.load(Ordering::Relaxed), 2);
        let kernel = tables.names.lock().expect("names").clone();
        assert_eq!(kernel.len(), 1);
        assert_eq!(kernel[0].0.prefix_len, 112);
        assert_eq!(
            kernel[0].1.namespace, 2,
            "the id of a is not given out again"
        );
        assert_eq!(directory.namespace(1).as_deref(), Some("a"));
        assert_eq!(directory.namespace(2).as_deref(), Some("b"));
        assert_eq!(directory.namespace(0), None);
        assert_eq!(directory.namespace(3), None);
    }

    #[test]
    fn own_addresses_are_the_host_unless_named() {
        let tables = Memory::new(4, 2, 1);
        let directory = Directory::default();
        let own = [IpAddr::from([198, 18, 0, 1]), IpAddr::from([198, 18, 0, 2])];
        let names = names(
            "- {cidr: 198.18.0.0/16, namespace: a}\n- {address: 198.18.0.2, namespace: edge, node: n}\n",
        );
        directory.update(&tables, &names, &own).expect("update");
        let namespace = |address| {
            directory
                .lookup(address)
                .and_then(|name| name.namespace.clone())
        };
        assert_eq!(namespace(own[0]).as_deref(), Some(HOST));
        assert_eq!(namespace(own[1]).as_deref(), Some("edge"));
        assert_eq!(
            namespace(IpAddr::from([198, 18, 0, 3])).as_deref(),
            Some("a")
        );
        let kernel = tables.names.lock().expect("names");
        assert_eq!(kernel.iter().filter(|(_, value)| value.own == 1).count(), 2);
    }

    #[test]
    fn generations_skip_zero() {
        let tables = Memory::new(4, 2, 1);
        tables.control.generation.store(0xffff, Ordering::Relaxed);
        next_generation(&tables);
        assert_eq!(tables.control.generation.load(Ordering::Relaxed), 1);
    }
}
