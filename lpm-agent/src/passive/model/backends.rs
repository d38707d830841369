//! Backends of connections to services, from connection tracking. The kernel programs are told the
//! owner of each backend, so that round trips are counted for the backend's workload.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lpm_common::layout::{BackendKey, MOST_BACKENDS, NameId, backend_key};

use crate::{
    kernel::{conntrack::Translated, maps::Maps},
    passive::NameIds,
};

/// Client and destination of a connection, as the client knows them.
type Ends = (SocketAddr, SocketAddr);

/// The entry of one connection in the kernel's map.
#[derive(Debug)]
struct Told {
    backend: IpAddr,
    /// Owner of the backend. None: no owner is known, or owners are not told apart.
    id: Option<NameId>,
}

/// The connections that are translated now, as far as there is room.
pub(crate) struct Backends {
    tables: Arc<dyn Maps>,
    ids: Arc<NameIds>,
    told: Mutex<HashMap<Ends, Told>>,
}

impl Backends {
    pub(super) fn new(tables: Arc<dyn Maps>, ids: Arc<NameIds>) -> Self {
        Self {
            tables,
            ids,
            told: Mutex::default(),
        }
    }

    fn told(&self) -> MutexGuard<'_, HashMap<Ends, Told>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies a report about connections that have begun or ended.
    pub(crate) fn hear(&self, news: Translated) {
        if !self.ids.levels().tell_backends() {
            return;
        }
        let mut told = self.told();
        match news {
            Translated::Changed(changes) => {
                for (ends, backend) in changes {
                    match backend {
                        Some(backend) => drop(self.begins(&mut told, ends, backend.ip())),
                        None => self.ends(&mut told, ends),
                    }
                }
            }
            Translated::All(all) => {
                let now: HashSet<Ends> = all.iter().map(|(ends, _)| *ends).collect();
                let gone = told.keys().filter(|ends| !now.contains(*ends));
                for ends in gone.copied().collect::<Vec<_>>() {
                    self.ends(&mut told, ends);
                }
                let mut new = false;
                for (ends, backend) in all {
                    new |= self.begins(&mut told, ends, backend.ip());
                }
                drop(told);
                // Flows that found no backend look again.
                if new {
                    self.ids.rename(&*self.tables);
                }
            }
        }
    }

    /// Looks up the owners of all backends again, because names have changed.
    pub(crate) fn refresh(&self) {
        let mut told = self.told();
        let all: Vec<_> = told.iter().map(|(ends, of)| (*ends, of.backend)).collect();
        let mut new = false;
        for (ends, backend) in all {
            new |= self.begins(&mut told, ends, backend);
        }
        drop(told);
        if new {
            self.ids.rename(&*self.tables);
        }
    }

    /// The ids of the backends' owners, which must not be given to others.
    pub(super) fn ids(&self) -> Vec<NameId> {
        self.told().values().filter_map(|of| of.id).collect()
    }

    /// Tells the kernel the owner of a connection's backend. Returns whether that is new.
    fn begins(&self, told: &mut HashMap<Ends, Told>, ends: Ends, backend: IpAddr) -> bool {
        let before = told.get(&ends).map(|of| of.id);
        if before.is_none() && told.len() >= MOST_BACKENDS as usize {
            return false;
        }
        let id = self.ids.id_behind(&*self.tables, ends.1.ip(), backend);
        let id = id.unwrap_or_else(|error| {
            tracing::error!(%error, "a backend could not get an id: flows to its service lack it");
            None
        });
        told.insert(ends, Told { backend, id });
        let before = before.flatten();
        if before == id {
            return false;
        }
        let written = match id {
            Some(id) => self.tables.set_backend(&key(ends), id),
            None => self.tables.remove_backend(&key(ends)),
        };
        check(written);
        true
    }

    fn ends(&self, told: &mut HashMap<Ends, Told>, ends: Ends) {
        if told.remove(&ends).is_some_and(|of| of.id.is_some()) {
            check(self.tables.remove_backend(&key(ends)));
        }
    }
}

fn check(written: io::Result<()>) {
    if let Err(error) = written {
        tracing::debug!(%error, "the backend of this connection is not known: it is counted for its service only");
    }
}

/// Key of a connection in map `BACKENDS`, as the kernel programs look it up.
fn key((from, to): Ends) -> BackendKey {
    backend_key((words(from.ip()), from.port()), (words(to.ip()), to.port()))
}

/// An address in network byte order, IPv4 mapped.
fn words(address: IpAddr) -> [u32; 4] {
    let bytes = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let (words, _) = bytes.as_chunks::<4>();
    [0, 1, 2, 3].map(|word: usize| u32::from_ne_bytes(words[word]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        identity::{Levels, Name, names_file::Kind},
        kernel::maps::memory::Memory,
    };

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_kernel_hears_whose_connections_are() {
        let tables = Arc::new(Memory::new(4, 4, 1));
        let levels = Levels {
            workload: true,
            service: true,
            ..Levels::default()
        };
        let ids = Arc::new(NameIds::new(levels, Arc::default()));
        let backends = Backends::new(Arc::clone(&tables) as _, Arc::clone(&ids));
        let name = |address: &str, namespace: &str, workload: Option<&str>| {
            let name = Name {
                namespace: Some(namespace.into()),
                kind: if workload.is_some() {
                    Kind::Pod
                } else {
                    Kind::Service
                },
                service: workload.is_none().then(|| "front".into()),
                workload: workload.map(Into::into),
                ..Name::default()
            };
            let range = at(&format!("{address}:0")).ip().into();
            let change = [(range, Some(Arc::new(name)))];
            ids.registry().apply(&change);
            ids.follow(&*tables, &change).expect("follow");
        };
        name("198.19.0.1", "shop", None);
        name("198.18.0.7", "shop", Some("web"));
        let (from, to) = (at("198.18.0.2:4000"), at("198.19.0.1:80"));
        let whose = |from: SocketAddr| {
            let told = tables.backends.lock().expect("backends");
            let id = told.get(&key((from, to))).copied()?;
            let member = ids.member(id)?;
            let (workload, service) = (member.workload.clone()?, member.service.clone()?);
            Some(format!("{workload} {service}"))
        };
        let begins = |from, backend: &str| {
            let change = ((from, to), Some(at(backend)));
            backends.hear(Translated::Changed(vec![change]));
        };
        begins(from, "198.18.0.7:8080");
        assert_eq!(whose(from).as_deref(), Some("web front"));
        // The backend gets a name later. A backend in another namespace gets no id here.
        let late = at("198.18.0.2:4001");
        begins(late, "198.18.0.8:8080");
        assert_eq!(whose(late), None);
        name("198.18.0.8", "elsewhere", Some("db"));
        backends.refresh();
        assert_eq!(whose(late), None);
        name("198.18.0.8", "shop", Some("api"));
        backends.refresh();
        assert_eq!(whose(late).as_deref(), Some("api front"));
        backends.hear(Translated::Changed(vec![((from, to), None)]));
        assert_eq!(whose(from), None);
        backends.hear(Translated::All(vec![((from, to), at("198.18.0.7:8080"))]));
        assert_eq!(whose(from).as_deref(), Some("web front"));
        assert_eq!(whose(late), None, "it has ended meanwhile");
        assert_eq!(backends.ids().len(), 1);
    }

    #[test]
    fn a_key_is_as_the_programs_make_it() {
        let key = key((at("198.18.0.2:4000"), at("[fd00::1]:80")));
        let mapped = [
            0,
            0,
            0xffff_u32.to_be(),
            u32::from_ne_bytes([198, 18, 0, 2]),
        ];
        assert_eq!(key[..4], mapped);
        assert_eq!(key[7], 1_u32.to_be());
        assert_eq!(key[8], (4000 << 16) + 80);
    }
}
