//! Who is behind an interface: the local end of its flows, whatever address it has.
//!
//! An address may have been another pod's a moment ago, and the API server tells of it later. An
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

use super::{Name, cni::CniResults, names::Kind, whose::LocalEnd};
use crate::{
    kernel::{hotplug::Describe, interfaces::Interface, routes::host_routes},
    passive::Model,
};

/// How often it is looked whether anything is new.
const LOOK: Duration = Duration::from_millis(250);

/// Times of files are no finer than this (a jiffy is 10 ms at most).
const TICK: Duration = Duration::from_millis(20);

/// The result of the CNI is there this long after the interface, or never.
const PATIENCE: Duration = Duration::from_secs(5);

/// Names interfaces by the results that the CNI library keeps.
#[derive(Debug)]
pub struct LocalEnds {
    model: Arc<Model>,
    directory: PathBuf,
    results: CniResults,
    /// The directory's time when it was read.
    read: Option<SystemTime>,
    /// The names' generation when interfaces were last described.
    generation: u32,
    /// Host routes by interface, and when they were read.
    routes: Option<(Instant, BTreeMap<u32, Vec<IpAddr>>)>,
    /// Since when an interface is waited for.
    waiting: BTreeMap<u32, Instant>,
    begun: Instant,
}

impl LocalEnds {
    /// With the results in this directory; one that is not there has none.
    #[must_use]
    pub fn new(model: Arc<Model>, directory: PathBuf) -> Self {
        let mut ends = Self {
            model,
            directory,
            results: CniResults::default(),
            read: None,
            generation: 0,
            routes: None,
            waiting: BTreeMap::new(),
            begun: Instant::now(),
        };
        ends.read_again();
        ends
    }

    /// Whether the results have changed; if so they are read.
    fn read_again(&mut self) -> bool {
        let changed = fs::metadata(&self.directory).and_then(|about| about.modified());
        let changed = changed.ok();
        if changed == self.read {
            return false;
        }
        self.results = CniResults::read(&self.directory).unwrap_or_else(|error| {
            tracing::warn!(directory = %self.directory.display(), %error, "the CNI's results cannot be read: local ends are named by address");
            CniResults::default()
        });
        // The time before the reading: what comes during it is read next time. Times are those of
        // the last tick: what came since within the same one has the same.
        let settled = changed.is_some_and(|at| at.elapsed().is_ok_and(|age| age > TICK));
        self.read = changed.filter(|_| settled && !self.results.is_unfinished());
        true
    }

    /// The name of the pod that an interface was made for.
    fn name(&mut self, interface: &Interface) -> Option<Name> {
        if self.results.is_empty() {
            return None;
        }
        if self.results.of_interface(&interface.name).is_none() {
            self.read_routes();
        }
        let by_name = self.results.of_interface(&interface.name);
        let pod = by_name.or_else(|| {
            let (_, routes) = self.routes.as_ref()?;
            let mut addresses = routes.get(&interface.index)?.iter();
            addresses.find_map(|address| self.results.of_address(*address))
        })?;
        // The rest of the name is to be had from whoever knows the pod by its address, if that is
        // still, or already, the same pod.
        let same = |address: &IpAddr| {
            let name = self.model.directory().lookup(*address)?;
            let is_it = name.namespace.as_deref() == Some(&*pod.namespace)
                && name.pod.as_deref() == Some(&*pod.pod);
            is_it.then(|| Name::clone(&name))
        };
        Some(pod.addresses.iter().find_map(same).unwrap_or_else(|| Name {
            kind: Kind::Pod,
            namespace: Some(pod.namespace.as_str().into()),
            pod: Some(pod.pod.as_str().into()),
            ..Name::default()
        }))
    }

    /// Reads the routes, once per look at all interfaces.
    fn read_routes(&mut self) {
        if self
            .routes
            .as_ref()
            .is_some_and(|(at, _)| at.elapsed() < LOOK / 2)
        {
            return;
        }
        let routes = host_routes().unwrap_or_else(|error| {
            tracing::warn!(%error, "the routes cannot be read: local ends are named by address");
            BTreeMap::new()
        });
        self.routes = Some((Instant::now(), routes));
    }

    /// Whether the result for an interface may still come.
    fn may_come(&mut self, index: u32) -> bool {
        // Those that were there before us have had theirs.
        if self.results.is_empty() || self.begun.elapsed() < PATIENCE / 5 {
            return false;
        }
        self.waiting
            .entry(index)
            .or_insert_with(Instant::now)
            .elapsed()
            < PATIENCE
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
        let directory = model.directory();
        if let Some(name) = self.name(interface) {
            let id = directory.id_here(model.tables(), &name);
            directory.set_local(interface.index, Some(LocalEnd::Pod(Arc::new(name))));
            self.waiting.remove(&interface.index);
            return of_pod(id);
        }
        if self.may_come(interface.index) {
            directory.set_local(interface.index, Some(LocalEnd::NotYet));
            of_pod(NameId(0))
        } else {
            directory.set_local(interface.index, None);
            by_address
        }
    }

    fn forget(&mut self, index: u32) {
        self.waiting.remove(&index);
        self.model.directory().set_local(index, None);
    }

    fn look_every(&self) -> Option<Duration> {
        Some(LOOK)
    }

    fn is_stale(&mut self) -> bool {
        let generation = self.model.generation();
        let renamed = generation != self.generation;
        self.generation = generation;
        let overdue = |since: &Instant| (PATIENCE..PATIENCE + 2 * LOOK).contains(&since.elapsed());
        self.read_again() || renamed || self.waiting.values().any(overdue)
    }
}
