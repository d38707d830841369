//! One running agent: names, in a process that measures the kernel programs, the model over their
//! maps and the samples, and in one that probes the probes.
//!
//! `lpm run`, `lpm top` and `lpm watch` are each a session and something that shows it. Ending a
//! session (dropping it) detaches everything, but for what `lpm run` pins for its successor.

mod following;
mod host_sources;
mod housekeeping;
mod interface_owner;
mod kubernetes;
mod learnt;
mod liveness;
mod names;
mod notice;
mod one_sided;
mod passive;
mod passive_chores;
mod program_log;
mod ring;

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use thiserror::Error;

use crate::{
    active::{
        agent::{Active, ActiveError},
        verdict::PassiveLiveness,
    },
    config::Config,
    identity::{Registry, kubernetes::KubernetesError, names_file::NamesError},
    kernel::{
        hotplug::{AttachedInterface, Hotplug, StartError},
        load::LoadError,
        netns::{Netns, NetnsError, Place},
        pins::PinError,
    },
};

use liveness::FlowLiveness;
use names::Names;
pub use notice::Notice;
use passive::Loaded;
pub use passive::Passive;

/// Keys that [`Session::reload`] applies: names, rules for interfaces, and probes. The sections of the
/// configuration say the same of them.
#[cfg(test)]
const RELOADED: [&str; 7] = [
    "preset",
    "interfaces",
    "names",
    "identity.external",
    "identity.cluster_ranges",
    "reflector.allow",
    "probes",
];

/// Why a session could not begin.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The network namespace cannot be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The kernel programs cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Nothing can be pinned.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// The interfaces cannot be watched.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The names file cannot be used.
    #[error(transparent)]
    PrefixMap(#[from] NamesError),
    /// Kubernetes cannot be asked for names.
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
    /// Probes can be neither sent nor answered.
    #[error(transparent)]
    Active(#[from] ActiveError),
    /// The kernel's names or clocks cannot be read or written.
    #[error(
        "cannot prepare the maps of the kernel programs: {0}; run `lpm check` to see what this \
         machine supports"
    )]
    Maps(io::Error),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}; raise the limit of processes (ulimit -u)")]
    Thread(io::Error),
}

/// What a session is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration.
    pub config: Config,
    /// Only these interfaces, by name; empty: by the rules.
    pub only: Vec<String>,
    /// In place of the version of the maps' layout, for tests of upgrades.
    pub layout_version: Option<u32>,
    /// True: measure. False: give names only. Then no kernel program is loaded, and no privilege is
    /// needed unless the configuration names a network namespace.
    pub passive: bool,
    /// True: answer probes, and probe, as the configuration says. It needs no privilege either.
    pub active: bool,
    /// A thread in the configured network namespace, for a process that may not enter it any more.
    pub place: Option<Arc<Place>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            config: Config::default(),
            only: Vec::new(),
            layout_version: None,
            passive: true,
            active: false,
            place: None,
        }
    }
}

/// Does something in the place, if there is one, else in this thread. Threads that it starts
/// inherit the network namespace.
fn within<T: Send + 'static>(
    place: Option<&Arc<Place>>,
    job: impl FnOnce() -> T + Send + 'static,
) -> T {
    match place {
        Some(place) => place.run(job),
        None => job(),
    }
}

/// A running agent.
#[derive(Debug)]
pub struct Session {
    // Fields are dropped in this order: probing ends, the hooks are detached. Then the names end, Kubernetes
    // before housekeeping, and last what reads the kernel's maps and keeps their pins.
    active: Option<Active>,
    hotplug: Option<Hotplug>,
    names: Names,
    passive: Option<Passive>,
    only: Vec<String>,
    config: Mutex<Config>,
}

impl Session {
    /// Starts the names, and in a session that measures loads the programs, attaches them and starts
    /// reading. Returns once the names are known and every existing interface has been handled.
    /// `notify` is called in the hotplug thread.
    ///
    /// # Errors
    /// The configuration's names cannot be read, or no thread can be started. In a session that
    /// measures: the kernel refuses the programs, their maps or their pins.
    pub fn start(
        options: Options,
        notify: impl FnMut(Notice) + Send + 'static,
    ) -> Result<Self, SessionError> {
        let Options {
            config,
            only,
            layout_version,
            passive,
            active,
            place,
        } = options;
        let configured = names::configured(&config)?;
        let netns = open_netns(&config)?;
        let registry = names::registry(&config);
        let load = || Loaded::load(&config, layout_version, Arc::clone(&registry));
        let loaded = passive.then(load).transpose()?;
        let model = loaded.as_ref().map(Loaded::model);
        let flows = model.map(|model| FlowLiveness::new(Arc::clone(model)));
        let flows = flows.map(|flows| Arc::new(flows) as Arc<dyn PassiveLiveness>);
        // Names come first: a flow that appears before its names would be counted without them.
        let names = Names::start(&config, configured, netns, registry, model, place.as_ref())?;
        let attach = |loaded: Loaded| loaded.attach(&config, &only, place.as_ref(), notify);
        let (hotplug, passive) = loaded.map(attach).transpose()?.unzip();
        let probes = || start_active(&config, names.registry(), place.as_ref(), flows);
        let active = active.then(probes).transpose()?;
        Ok(Self {
            active,
            hotplug,
            names,
            passive,
            only,
            config: Mutex::new(config),
        })
    }

    /// Names of addresses.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        self.names.registry()
    }

    /// What measures. None: the session was started without it.
    #[must_use]
    pub fn passive(&self) -> Option<&Passive> {
        self.passive.as_ref()
    }

    /// What probes and answers probes. None: the session was started without it.
    #[must_use]
    pub fn active(&self) -> Option<&Active> {
        self.active.as_ref()
    }

    /// Ends the session and detaches everything, pinned or not. Dropping the session leaves what is
    /// pinned to the next agent.
    pub fn detach(self) {
        if let Some(passive) = &self.passive {
            passive.unpin();
        }
    }

    /// The interfaces that are watched now.
    #[must_use]
    pub fn attached(&self) -> Vec<AttachedInterface> {
        let hotplug = self.hotplug.as_ref();
        hotplug.map_or_else(Vec::new, Hotplug::attached)
    }

    /// Applies the parts of another configuration that can change while running: names, rules and
    /// probes. Returns the keys that differ and need a restart.
    ///
    /// # Errors
    /// The configuration's names, or the keys of probes, cannot be read. Then nothing is changed.
    pub fn reload(&self, config: Config) -> Result<Vec<&'static str>, SessionError> {
        let configured = names::configured(&config)?;
        if let Some(active) = &self.active {
            active.apply(Active::prepare(&config)?);
        }
        self.names.configure(configured);
        if let Some(hotplug) = &self.hotplug {
            hotplug.set_rules(config.rules(&self.only));
        }
        let mut current = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let cold = current.needs_restart(&config);
        *current = config;
        Ok(cold)
    }
}

/// Starts what probes and answers, in the watched network namespace.
fn start_active(
    config: &Config,
    registry: &Arc<Registry>,
    place: Option<&Arc<Place>>,
    flows: Option<Arc<dyn PassiveLiveness>>,
) -> Result<Active, SessionError> {
    let netns = open_netns(config)?;
    let (config, registry) = (config.clone(), Arc::clone(registry));
    let started = within(place, move || {
        Active::start(&config, &registry, netns, flows)
    });
    Ok(started?)
}

/// Opens the network namespace that is watched. None: it is this process's.
fn open_netns(config: &Config) -> Result<Option<Netns>, NetnsError> {
    config.netns.as_deref().map(Netns::open).transpose()
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        net::IpAddr,
        thread,
        time::{Duration, Instant},
    };

    use caps::CapSet;

    use super::*;
    use crate::active::fate::Fate;

    /// A key that the sections call hot and `reload` forgets would never be applied, in silence.
    #[test]
    fn every_hot_key_is_reloaded() {
        assert_eq!(Config::hot_keys(), RELOADED);
    }

    /// Runs this in a thread without any capability, as in a container that has none.
    fn unprivileged(runs: impl FnOnce() + Send + 'static) {
        let thread = thread::spawn(move || {
            for set in [CapSet::Effective, CapSet::Permitted] {
                caps::clear(None, set).expect("capabilities can be given up");
            }
            runs();
        });
        thread.join().expect("the thread without capabilities");
    }

    /// A process without BPF and without any privilege answers probes, and probes.
    #[test]
    fn probes_without_privileges() {
        unprivileged(|| {
            let free = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
            let address = free.local_addr().expect("an address");
            drop(free);
            let text = format!(
                "reflector: {{listen: [\"{address}\"]}}\n\
                 probes: {{interval: 100ms, train: {{packets: 5}}, \
                 targets: [{{name: self, address: \"{address}\"}}]}}\n"
            );
            let config = Config::parse(&text, std::path::Path::new("lpm.yaml"));
            let options = Options {
                config: config.expect("a configuration"),
                passive: false,
                active: true,
                ..Options::default()
            };
            let session = Session::start(options, drop).expect("a session of probes");
            let active = session.active().expect("it probes");
            let patience = Instant::now() + Duration::from_mins(1);
            loop {
                let sessions = active.figures().sessions();
                let counted = sessions.first().map(|one| one.figures().clone());
                if counted.is_some_and(|one| one.round_trips.count() >= 20 && one.ways.is_some()) {
                    break;
                }
                assert!(Instant::now() < patience, "no answer: {sessions:?}");
                thread::yield_now();
            }
            let answered = active.answers().counts.of(Fate::Answered);
            assert!(answered >= 20, "{answered}");
            assert!(session.passive().is_none());
        });
    }

    /// A process without BPF gives names, and a session that measures does not start there.
    #[test]
    fn names_without_privileges() {
        unprivileged(|| {
            let directory = tempfile::tempdir().expect("a directory");
            let file = directory.path().join("names.yaml");
            let write = |namespace: &str| {
                let text = format!("- {{address: 198.18.0.1, namespace: {namespace}}}\n");
                fs::write(&file, text).expect("a names file");
            };
            write("shop");
            let options = Options {
                config: Config {
                    names: Some(file.clone()),
                    ..Config::default()
                },
                ..Options::default()
            };
            let measuring = Session::start(options.clone(), drop);
            assert!(
                matches!(measuring, Err(SessionError::Load(_))),
                "{measuring:?}"
            );
            let config = options.config.clone();
            let without = Options {
                passive: false,
                ..options
            };
            let session = Session::start(without, drop).expect("a session of names");
            let namespace = || {
                let name = session.registry().lookup(IpAddr::from([198, 18, 0, 1]));
                name.and_then(|name| name.namespace.as_deref().map(str::to_owned))
            };
            assert_eq!(namespace().as_deref(), Some("shop"));
            assert!(session.passive().is_none() && session.attached().is_empty());
            write("media");
            assert_eq!(session.reload(config).expect("a names file"), [""; 0]);
            let patience = Instant::now() + Duration::from_mins(1);
            while namespace().as_deref() != Some("media") {
                assert!(Instant::now() < patience, "the new name is never given");
                thread::yield_now();
            }
        });
    }
}
