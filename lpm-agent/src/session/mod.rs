//! One running monitor: the kernel programs, the model over their maps, the names, the samples.
//!
//! `lpm run`, `lpm top` and `lpm watch` are each a session and something that shows it. Ending a
//! session (dropping it) detaches everything, but for what `lpm run` pins for its successor.

mod following;
mod host_sources;
mod housekeeping;
mod interface_owner;
mod kubernetes;
mod learnt;
mod notice;
mod one_sided;
mod program_log;
mod ring;

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use aya::programs::loaded_programs;
use thiserror::Error;

use crate::{
    api::Hub,
    config::{Config, node_name},
    export::agent::ProgramTimes,
    identity::{
        PrefixMap, Registry,
        kubernetes::{Kubernetes, KubernetesError},
        labels::Chosen,
        names_file::NamesError,
    },
    kernel::{
        hotplug::{AttachedInterface, Hotplug, Settings, StartError},
        load::{Kernel, LoadError, LoadSettings, Programs, agreement},
        netns::{Netns, NetnsError},
        pins::{PATIENCE, PinError, Pins},
        tables::KernelTables,
    },
    passive::{Model, NameIds},
};

use following::follow;
use housekeeping::{Configured, Housekeeping, Times};
use interface_owner::LocalEnds;
pub use notice::Notice;
use one_sided::OneSided;
use program_log::ProgramLog;

/// Keys that [`Session::reload`] applies: names, and rules for interfaces. The sections of the
/// configuration say the same of them.
#[cfg(test)]
const RELOADED: [&str; 5] = [
    "preset",
    "interfaces",
    "names",
    "identity.external",
    "identity.cluster_ranges",
];

/// 1 while the kernel measures the run time of programs.
const STATS_ENABLED: &str = "/proc/sys/kernel/bpf_stats_enabled";

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
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The configuration.
    pub config: Config,
    /// Only these interfaces, by name; empty: by the rules.
    pub only: Vec<String>,
    /// In place of the version of the maps' layout, for tests of upgrades.
    pub layout_version: Option<u32>,
}

/// A running monitor.
#[derive(Debug)]
pub struct Session {
    // Fields are dropped in this order: the hooks are detached first, then the reading ends.
    hotplug: Hotplug,
    // The source of names ends before the housekeeping thread that it reports to.
    _kubernetes: Option<Kubernetes>,
    keeper: Housekeeping,
    hub: Arc<Hub>,
    programs: Arc<Programs>,
    only: Vec<String>,
    config: Mutex<Config>,
    _log: Option<ProgramLog>,
    pins: Option<Arc<Pins>>,
}

impl Session {
    /// Loads the programs, attaches them and starts reading. Returns once every existing interface
    /// has been handled. `notify` is called in the hotplug thread.
    pub fn start(
        Options {
            config,
            only,
            layout_version,
        }: Options,
        mut notify: impl FnMut(Notice) + Send + 'static,
    ) -> Result<Self, SessionError> {
        let configured = configured(&config)?;
        let open = || config.netns.as_deref().map(Netns::open).transpose();
        let netns = (open()?, open()?);
        let settings = load_settings(&config);
        let pins = open_pins(&config, &settings, layout_version)?.map(Arc::new);
        let mut kernel = match &pins {
            Some(pins) => Kernel::load_pinned(&settings, pins)?,
            None => Kernel::load(&settings)?,
        };
        let log = ProgramLog::start(&mut kernel).map_err(SessionError::Thread)?;
        let programs = Arc::new(kernel.programs()?);
        let interfaces = kernel.interfaces()?;
        let (homes, forwarded) = (kernel.take("HOMES")?, kernel.take("FORWARDED")?);
        let ring = ring::SampleRing::new(kernel.take("SAMPLES")?);
        let model = Arc::new(model(&config, KernelTables::new(kernel)?)?);
        // Names come first: a flow that appears before its names would be counted without them.
        let keeper = Housekeeping::start(Arc::clone(&model), configured, netns.0, times(&config))?;
        let kubernetes = kubernetes::follow(&config, &model, &keeper)?;
        host_sources::follow(
            &model,
            (open()?, &config.conntrack),
            open()?,
            node_name(config.node_name.as_deref()),
        );
        let hub = Hub::start(Arc::clone(&model), ring).map_err(SessionError::Thread)?;
        let settings = Settings {
            mode: config.attach,
            netns: netns.1,
            describe: Box::new(LocalEnds::new(
                Arc::clone(&model),
                [config.cni_results.clone(), config.multus_results.clone()],
            )),
            evidence: Some(Box::new(OneSided::new(
                Arc::clone(&model),
                homes,
                forwarded,
            ))),
            pins: pins.clone(),
            ..Settings::new(config.rules(&only))
        };
        let on_event = move |event| {
            if let Some(notice) = follow(&model, event) {
                notify(notice);
            }
        };
        let hotplug = Hotplug::start(settings, Arc::clone(&programs), interfaces, on_event)?;
        Ok(Self {
            hotplug,
            _kubernetes: kubernetes,
            keeper,
            hub,
            programs,
            only,
            config: Mutex::new(config),
            _log: log,
            pins,
        })
    }

    /// Whether the data path can outlive this session: whether it is pinned.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.pins.is_some()
    }

    /// When the maps in use were made, if an earlier agent made them. None: this session made them.
    #[must_use]
    pub fn counting_since(&self) -> Option<SystemTime> {
        self.pins.as_ref()?.made()
    }

    /// Ends the session and detaches everything, pinned or not. Dropping the session leaves what is
    /// pinned to the next agent.
    pub fn detach(self) {
        if let Some(pins) = &self.pins {
            pins.keep(false);
        }
    }

    /// The hub that distributes the samples.
    #[must_use]
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// The model over the kernel's maps.
    #[must_use]
    pub fn model(&self) -> &Model {
        self.hub.model()
    }

    /// The interfaces that are watched now.
    #[must_use]
    pub fn attached(&self) -> Vec<AttachedInterface> {
        self.hotplug.attached()
    }

    /// Applies the parts of another configuration that can change while running: names and rules.
    /// Returns the keys that differ and need a restart.
    pub fn reload(&self, config: Config) -> Result<Vec<&'static str>, SessionError> {
        self.keeper.configure(configured(&config)?);
        self.hotplug.set_rules(config.rules(&self.only));
        let mut current = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let cold = current.needs_restart(&config);
        *current = config;
        Ok(cold)
    }

    /// A function that gives the run time of each program, while the kernel measures it.
    #[must_use]
    pub fn program_times(&self) -> ProgramTimes {
        let programs = Arc::clone(&self.programs);
        Box::new(move || {
            let enabled = std::fs::read_to_string(STATS_ENABLED);
            if enabled.map_or(true, |enabled| enabled.trim() != "1") {
                return Vec::new();
            }
            loaded_programs()
                .flatten()
                .filter_map(|info| {
                    let program = programs.iter().find(|program| program.id == info.id())?;
                    // A program that never ran has no run time, which is not a run time of 0.
                    (info.run_count() > 0).then(|| (program.name, info.run_time()))
                })
                .collect()
        })
    }
}

/// Makes the model over the kernel's maps. It knows the names that the last agent left in them.
fn model(config: &Config, tables: KernelTables) -> Result<Model, SessionError> {
    let labels = Chosen::new(&config.identity.kubernetes.labels);
    let node = node_name(config.node_name.as_deref());
    let registry = Arc::new(Registry::on_node(node, labels));
    let ids = NameIds::new(config.levels.clone(), registry);
    ids.resume(&tables).map_err(SessionError::Maps)?;
    let model = Model::new(Arc::new(tables), Arc::new(ids), config.flow_idle);
    let model = model.map_err(SessionError::Maps)?;
    model.begin_levels().map_err(SessionError::Maps)?;
    Ok(model)
}

fn times(config: &Config) -> Times {
    Times {
        window: config.window,
        keep: config.pins.keep,
        keep_gone: config.keep_gone,
    }
}

fn open_pins(
    config: &Config,
    settings: &LoadSettings,
    version: Option<u32>,
) -> Result<Option<Pins>, SessionError> {
    if !config.pins.enabled {
        return Ok(None);
    }
    let agreement = agreement(settings, config.attach, config.netns.as_deref(), version)?;
    Ok(Some(Pins::open(&config.pins.path, &agreement, PATIENCE)?))
}

fn load_settings(config: &Config) -> LoadSettings {
    let defaults = LoadSettings::new();
    LoadSettings {
        // An entry takes memory only once it is used.
        names: if config.identity.kubernetes().is_some() {
            NAMES_OF_A_CLUSTER
        } else {
            defaults.names
        },
        flow_entries: config.flows,
        query_entries: config.queries,
        rows: config.rows,
        stripes: config.stripes,
        idle_seconds: u32::try_from(config.flow_idle.as_secs()).unwrap_or(u32::MAX),
        methods: config.method_set(),
        tunnels: config.looked_into(),
        xdp: config.by_xdp(),
        ..defaults
    }
}

/// Reads the names that the configuration gives.
fn configured(config: &Config) -> Result<Configured, NamesError> {
    let file = config.names.as_deref();
    Ok(Configured {
        file: file.map_or_else(|| Ok(PrefixMap::default()), PrefixMap::read)?,
        external: config.identity.external.clone(),
        within: config.identity.cluster_ranges(),
        permits: config.identity.permits(),
        node: node_name(config.node_name.as_deref()),
        complete: config.identity.kubernetes().is_none(),
    })
}

/// Entries for names in the kernel where Kubernetes is asked: 100,000 pods with two addresses each,
/// and services.
const NAMES_OF_A_CLUSTER: u32 = 1 << 18;

/// Longest time until a change of the node's addresses is noticed.
const ADDRESSES_EVERY: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    /// A key that the sections call hot and `reload` forgets would never be applied, in silence.
    #[test]
    fn every_hot_key_is_reloaded() {
        assert_eq!(Config::hot_keys(), RELOADED);
    }
}
