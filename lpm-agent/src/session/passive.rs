//! The passive half of a session: the kernel programs, the model over their maps, the hooks and the
//! samples.

use std::{io, sync::Arc, time::SystemTime};

use aya::{
    maps::{HashMap, MapData},
    programs::loaded_programs,
};

use super::{
    Notice, SessionError, following::follow, host_sources, interface_owner::LocalEnds,
    one_sided::OneSided, open_netns, program_log::ProgramLog, ring::SampleRing,
};
use crate::{
    api::Hub,
    config::Config,
    export::agent::ProgramTimes,
    identity::Registry,
    kernel::{
        hotplug::{Hotplug, Settings},
        load::{Kernel, LoadSettings, Programs, agreement},
        pins::{PATIENCE, Pins},
        tables::KernelTables,
    },
    passive::{Model, NameIds},
};

/// 1 while the kernel measures the run time of programs.
const STATS_ENABLED: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Entries for names in the kernel where Kubernetes is asked: 100,000 pods with two addresses each,
/// and services.
const NAMES_OF_A_CLUSTER: u32 = 1 << 18;

/// What a session that measures has beside its hooks and its names.
#[derive(Debug)]
pub struct Passive {
    // Fields are dropped in this order: the reading of samples ends, then that of log messages.
    // The pins are the last to go: they decide what stays in the kernel.
    hub: Arc<Hub>,
    programs: Arc<Programs>,
    _log: Option<ProgramLog>,
    pins: Option<Arc<Pins>>,
}

impl Passive {
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

    /// Leaves nothing pinned to the next agent.
    pub(super) fn unpin(&self) {
        if let Some(pins) = &self.pins {
            pins.keep(false);
        }
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

/// The loaded kernel programs and their maps, before anything is attached. Names are put into these
/// maps before the first packet is counted.
pub(super) struct Loaded {
    model: Arc<Model>,
    ring: SampleRing,
    interfaces: HashMap<MapData, u32, [u8; 8]>,
    homes: HashMap<MapData, [u32; 4], u32>,
    forwarded: HashMap<MapData, u32, u64>,
    programs: Arc<Programs>,
    log: Option<ProgramLog>,
    pins: Option<Arc<Pins>>,
}

impl Loaded {
    /// Loads the programs, over the maps that an earlier agent pinned, if there are any.
    pub(super) fn load(
        config: &Config,
        layout_version: Option<u32>,
        registry: Arc<Registry>,
    ) -> Result<Self, SessionError> {
        let settings = load_settings(config);
        let pins = open_pins(config, &settings, layout_version)?.map(Arc::new);
        let mut kernel = match &pins {
            Some(pins) => Kernel::load_pinned(&settings, pins)?,
            None => Kernel::load(&settings)?,
        };
        Ok(Self {
            log: ProgramLog::start(&mut kernel).map_err(SessionError::Thread)?,
            programs: Arc::new(kernel.programs()?),
            interfaces: kernel.interfaces()?,
            homes: kernel.take("HOMES")?,
            forwarded: kernel.take("FORWARDED")?,
            ring: SampleRing::new(kernel.take("SAMPLES")?),
            model: Arc::new(
                model(config, KernelTables::new(kernel)?, registry).map_err(SessionError::Maps)?,
            ),
            pins,
        })
    }

    /// The model over the maps.
    pub(super) fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Attaches the programs and starts to read. Returns once every existing interface has been
    /// handled. `notify` is called in the hotplug thread.
    pub(super) fn attach(
        self,
        config: &Config,
        only: &[String],
        mut notify: impl FnMut(Notice) + Send + 'static,
    ) -> Result<(Hotplug, Passive), SessionError> {
        let Self {
            model,
            ring,
            interfaces,
            homes,
            forwarded,
            programs,
            log,
            pins,
        } = self;
        host_sources::follow(&model, config)?;
        let hub = Hub::start(Arc::clone(&model), ring).map_err(SessionError::Thread)?;
        let cni_results = [config.cni_results.clone(), config.multus_results.clone()];
        let evidence = OneSided::new(Arc::clone(&model), homes, forwarded);
        let settings = Settings {
            mode: config.attach,
            netns: open_netns(config)?,
            describe: Box::new(LocalEnds::new(Arc::clone(&model), cni_results)),
            evidence: Some(Box::new(evidence)),
            pins: pins.clone(),
            ..Settings::new(config.rules(only))
        };
        let on_event = move |event| {
            if let Some(notice) = follow(&model, event) {
                notify(notice);
            }
        };
        let hotplug = Hotplug::start(settings, Arc::clone(&programs), interfaces, on_event)?;
        let passive = Passive {
            hub,
            programs,
            _log: log,
            pins,
        };
        Ok((hotplug, passive))
    }
}

/// Makes the model over the kernel's maps. It knows the names that the last agent left in them.
fn model(config: &Config, tables: KernelTables, registry: Arc<Registry>) -> io::Result<Model> {
    let ids = NameIds::new(config.levels.clone(), registry);
    ids.resume(&tables)?;
    let model = Model::new(Arc::new(tables), Arc::new(ids), config.flow_idle)?;
    model.begin_levels()?;
    Ok(model)
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
