//! Finds the owner of an interface: the local end of its flows, whatever address it has.
//!
//! An address may have been another pod's a moment ago, and the API server reports that later. An
//! interface that the CNI made for a pod is that pod's as long as it exists.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use lpm_common::layout::{InterfaceConfig, NameId, PeerKind, Vantage};

use super::learnt::Learnt;
use crate::{
    identity::{
        Name,
        cni::{CniPod, CniResults},
        names_file::Kind,
        resolver::LocalEnd,
    },
    kernel::{hotplug::Describe, interfaces::Interface, routes::host_routes},
    passive::Model,
};

/// Interval between two looks for new results of the CNI.
const LOOK: Duration = Duration::from_millis(250);

/// Granularity of file times: a jiffy, which is 10 ms at most, rounded up.
const TICK: Duration = Duration::from_millis(20);

/// Time within which the CNI's result for a new interface appears, if it ever does.
const PATIENCE: Duration = Duration::from_secs(5);

/// Names interfaces by the results that the CNI library stores.
#[derive(Debug)]
pub(super) struct LocalEnds {
    model: Arc<Model>,
    sources: Vec<Source>,
    learnt: Learnt,
    /// The names' generation when interfaces were last described.
    generation: u32,
    /// Host routes by interface index, and when they were read.
    routes: Option<(Instant, BTreeMap<u32, Vec<IpAddr>>)>,
    /// When the wait for an interface's result began, by interface index.
    waiting: BTreeMap<u32, Instant>,
    begun: Instant,
}

/// One directory of CNI results.
#[derive(Debug)]
struct Source {
    directory: PathBuf,
    results: CniResults,
    /// Modification time of the directory when it was read.
    read: Option<SystemTime>,
}

impl LocalEnds {
    /// Reads the results in these directories. A directory that does not exist yields none.
    #[must_use]
    pub(super) fn new(model: Arc<Model>, directories: impl IntoIterator<Item = PathBuf>) -> Self {
        let source = |directory| Source {
            directory,
            results: CniResults::default(),
            read: None,
        };
        let mut ends = Self {
            model,
            sources: directories.into_iter().map(source).collect(),
            learnt: Learnt::default(),
            generation: 0,
            routes: None,
            waiting: BTreeMap::new(),
            begun: Instant::now(),
        };
        ends.read_again();
        ends
    }

    /// Reads the results again if any have changed. Returns whether they have.
    fn read_again(&mut self) -> bool {
        let changed = self.sources.iter_mut().map(Source::read_again);
        changed.fold(false, |any, changed| any | changed)
    }

    /// The pod that the first source with an answer names.
    fn told(&self, tells: impl Fn(&CniResults) -> Option<&CniPod>) -> Option<&CniPod> {
        self.sources
            .iter()
            .find_map(|source| tells(&source.results))
    }

    fn by_name(&self, interface: &Interface) -> Option<&CniPod> {
        self.told(|results| results.of_interface(&interface.name))
    }

    /// True if no source holds a result.
    fn knows_none(&self) -> bool {
        self.sources.iter().all(|source| source.results.is_empty())
    }

    /// The pod that an interface was made for.
    fn pod(&mut self, interface: &Interface) -> Option<CniPod> {
        if self.by_name(interface).is_none() {
            self.read_routes();
        }
        let pod = self.by_name(interface).or_else(|| {
            let (_, routes) = self.routes.as_ref()?;
            let mut addresses = routes.get(&interface.index)?.iter();
            addresses.find_map(|address| self.told(|results| results.of_address(*address)))
        })?;
        Some(pod.clone())
    }

    /// The name of the pod that an interface was made for.
    fn name(&mut self, interface: &Interface) -> Option<Name> {
        if self.knows_none() {
            return self.learnt.pod(interface.index).cloned();
        }
        let pod = self.pod(interface)?;
        let is_it = |name: &Name| {
            name.namespace.as_deref() == Some(&*pod.namespace)
                && name.pod.as_deref() == Some(&*pod.pod)
        };
        // Whoever knows the pod by its address gives the rest of the name, if that pod is still, or
        // already, the same.
        let registry = self.model.registry();
        let same = |address: IpAddr| {
            let name = registry.lookup(address)?;
            is_it(&name).then(|| Name::clone(&name))
        };
        let mut own = pod.addresses.iter().copied();
        if let Some(name) = own.find_map(same) {
            return Some(name);
        }
        // An address in a further network may be another pod's, too. The pod's first address is
        // not.
        let sources = self.sources.iter();
        let mut others = sources.flat_map(|source| source.results.of_pod(&pod.namespace, &pod.pod));
        if let Some(name) = others.find_map(same) {
            return Some(Name {
                network: None,
                ..name
            });
        }
        // The API server reported the pod's end before its last packet passed.
        if let Some(LocalEnd::Pod(before)) = registry.local().get(&interface.index)
            && is_it(before)
        {
            return Some(Name::clone(before));
        }
        Some(Name {
            kind: Kind::Pod,
            namespace: Some(pod.namespace.as_str().into()),
            pod: Some(pod.pod.as_str().into()),
            ..Name::default()
        })
    }

    /// Reads the routes, once per pass over all interfaces.
    fn read_routes(&mut self) {
        if self
            .routes
            .as_ref()
            .is_some_and(|(at, _)| at.elapsed() < LOOK / 2)
        {
            return;
        }
        let routes = host_routes().unwrap_or_else(|error| {
            tracing::warn!(%error, "the routes cannot be read, so local ends are named by address");
            BTreeMap::new()
        });
        self.routes = Some((Instant::now(), routes));
    }

    /// True if the result for an interface may still come.
    fn may_come(&mut self, index: u32) -> bool {
        // Interfaces that existed before the agent have had theirs.
        if self.knows_none() || self.begun.elapsed() < PATIENCE / 5 {
            return false;
        }
        self.waiting
            .entry(index)
            .or_insert_with(Instant::now)
            .elapsed()
            < PATIENCE
    }
}

impl Source {
    /// Reads the results if they have changed. Returns whether they have.
    fn read_again(&mut self) -> bool {
        let changed = fs::metadata(&self.directory).and_then(|about| about.modified());
        let changed = changed.ok();
        if changed == self.read {
            return false;
        }
        self.results = CniResults::read(&self.directory).unwrap_or_else(|error| {
            tracing::warn!(directory = %self.directory.display(), %error, "the CNI's results cannot be read, so local ends are named by address");
            CniResults::default()
        });
        // The time is taken before the reading, so that what comes during it is read next time.
        // File times are those of the last tick: files written within one tick have equal times.
        let settled = changed.is_some_and(|at| at.elapsed().is_ok_and(|age| age > TICK));
        self.read = changed.filter(|_| settled && !self.results.is_unfinished());
        true
    }
}

impl Describe for LocalEnds {
    fn describe(&mut self, interface: &Interface, vantage: Vantage) -> InterfaceConfig {
        let by_address = InterfaceConfig::default();
        if !matches!(vantage, Vantage::Pod | Vantage::Node) {
            return by_address;
        }
        let of_pod = |local| InterfaceConfig {
            local_kind: PeerKind::Pod as u8,
            local,
            ..by_address
        };
        let model = Arc::clone(&self.model);
        let registry = model.registry();
        if let Some(name) = self.name(interface) {
            let id = model.ids().id_here(model.tables(), &name);
            registry.set_local(interface.index, Some(LocalEnd::Pod(Arc::new(name))));
            self.waiting.remove(&interface.index);
            return of_pod(id);
        }
        if self.may_come(interface.index) {
            registry.set_local(interface.index, Some(LocalEnd::NotYet));
            of_pod(NameId(0))
        } else {
            registry.set_local(interface.index, None);
            by_address
        }
    }

    fn passes_others(&self, interface: &Interface) -> bool {
        self.by_name(interface).is_some_and(CniPod::is_switch_port)
    }

    fn forget(&mut self, index: u32) {
        self.waiting.remove(&index);
        self.learnt.forget(index);
        self.model.registry().set_local(index, None);
    }

    fn look_every(&self) -> Option<Duration> {
        Some(LOOK)
    }

    fn is_stale(&mut self) -> bool {
        let generation = self.model.generation();
        let renamed = generation != self.generation;
        self.generation = generation;
        let overdue = |since: &Instant| (PATIENCE..PATIENCE + 2 * LOOK).contains(&since.elapsed());
        let learnt = self.knows_none() && self.learnt.look(&self.model);
        self.read_again() || renamed || learnt || self.waiting.values().any(overdue)
    }
}
