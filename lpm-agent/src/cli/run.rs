//! `lpm run`: the agent.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, SystemTime},
};

use clap::Args;

use super::{Measure, memory, rights, runtime, signals};
use crate::{
    api::{Access, App, Listeners},
    config::{Config, Enabled, Role, foreign::Foreign, node_name},
    export::{Metrics, agent::ConfigHash, collect::Collectors, http::HttpCounts},
    kernel::{netns::Place, privileges::Reduced},
    session::{Notice, Options, Passive, Session},
    shutdown::{OnExit, SuccessorCheck},
};

/// Interval between two looks at the configuration files.
const LOOK_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    measure: Measure,
    /// Address and port of the HTTP server.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Web configuration file: TLS, client certificates, users with passwords.
    #[arg(long, value_name = "FILE")]
    web_config: Option<PathBuf>,
    /// Serve the API to this machine at this Unix socket, too.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Keep the data path for the next agent, pinned in this directory of a BPF file system.
    #[arg(long, value_name = "PATH")]
    pins: Option<PathBuf>,
    /// In place of the version of the maps' layout: for tests of upgrades.
    #[arg(long, hide = true)]
    layout_version: Option<u32>,
}

impl Run {
    /// Where it serves, if the command line says so.
    pub(super) fn listens(&self) -> Option<SocketAddr> {
        self.listen
    }

    /// The Unix socket where it serves, if the command line says so.
    pub(super) fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// The configuration file.
    pub(super) fn config_file(&self) -> Option<&Path> {
        self.measure.config.as_deref()
    }

    pub(super) fn execute(self, netns: Option<&String>) -> anyhow::Result<()> {
        memory::give_back();
        let config = self.config(netns)?;
        self.tell_foreign()?;
        // No other thread runs yet: each inherits what this one still may do.
        let (rights, place) = rights::give_up(&config, self.measure.config.as_deref())?;
        runtime()?.block_on(self.serve(netns, config, rights, place))
    }

    async fn serve(
        self,
        netns: Option<&String>,
        config: Config,
        rights: Reduced,
        place: Option<Arc<Place>>,
    ) -> anyhow::Result<()> {
        let mut end = signals::End::new(false)?;
        // The port comes first: a second agent must not touch an interface.
        let listeners = Listeners::bind(
            config.listen,
            config.health.listen,
            config.export.listen,
            &config.socket,
        )?;
        let l2sm_series = config.export.l2sm_series;
        let http = Arc::<HttpCounts>::default();
        let access = Access::new(&config, Arc::clone(&http)).await?;
        let hash = Arc::new(ConfigHash::new(config.hash()));
        let farewell = farewell(&config);
        let mut files = Files::new(self.measure.config.clone(), config.names.clone());
        let options = Options {
            only: self.measure.interface.clone(),
            layout_version: self.layout_version,
            passive: config.role == Role::Agent,
            active: true,
            place,
            config,
        };
        let session = Session::start(options, |notice| log(&notice))?;
        let nodes = Arc::clone(session.registry().publisher());
        let access = Arc::new(access.with_nodes(nodes));
        rights::tell(&rights);
        let shown = Shown {
            l2sm_series,
            hash: Arc::clone(&hash),
            http,
            access: Arc::clone(&access),
        };
        let serving = listeners.serve(app(&session, shown));
        let mut hangup = signals::reload()?;
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                () = end.wait() => break,
                _ = hangup.recv() => {
                    access.reload();
                    self.reload(netns, &session, &hash, &mut files);
                }
                _ = look.tick() => {
                    access.reload();
                    if files.changed() {
                        self.reload(netns, &session, &hash, &mut files);
                    }
                }
            }
        }
        serving.end().await;
        let leaving = match farewell {
            Some(farewell) => farewell.ask().await,
            None if session.passive().is_some_and(Passive::is_pinned) => {
                OnExit::KeepPinned("they are pinned".to_owned())
            }
            None => OnExit::Detach("nothing is pinned".to_owned()),
        };
        tracing::info!("{leaving}");
        match leaving {
            OnExit::KeepPinned(_) => drop(session),
            OnExit::Detach(_) => session.detach(),
        }
        Ok(())
    }

    /// Logs that the configuration is another system's, and what it has no counterpart of.
    fn tell_foreign(&self) -> anyhow::Result<()> {
        let file = self.config_file();
        let Some(foreign) = file.map(Foreign::read).transpose()?.flatten() else {
            return Ok(());
        };
        tracing::info!(
            "the configuration is {}; `lpm config import` prints it as lpm's",
            foreign.kind
        );
        for note in foreign.nodes.iter().flat_map(|node| &node.notes) {
            tracing::warn!("{note}");
        }
        Ok(())
    }

    fn config(&self, netns: Option<&String>) -> anyhow::Result<Config> {
        let mut config = self.measure.config(netns, self.listen)?;
        if let Some(path) = &self.pins {
            config.pins.enabled = true;
            config.pins.path.clone_from(path);
        }
        if let Some(path) = &self.web_config {
            config.web_config = Some(path.clone());
        }
        if let Some(path) = &self.socket {
            config.socket.enabled = Enabled::Always(true);
            config.socket.path.clone_from(path);
        }
        config.check()?;
        Ok(config)
    }

    /// Applies the configuration files as they are now. A file with an error changes nothing.
    fn reload(
        &self,
        netns: Option<&String>,
        session: &Session,
        in_force: &ConfigHash,
        files: &mut Files,
    ) {
        let applied = self.config(netns).and_then(|config| {
            let hash = config.hash();
            files.follow(config.names.clone());
            let cold = session.reload(config)?;
            in_force.set(hash);
            Ok(cold)
        });
        match applied {
            Ok(cold) if cold.is_empty() => tracing::info!("names and rules are applied"),
            Ok(cold) => tracing::warn!(
                "names and rules are applied; restart the agent to apply {}",
                cold.join(", ")
            ),
            Err(error) => tracing::error!("nothing is changed: {error}"),
        }
    }
}

/// What the HTTP server shows beside a session.
struct Shown {
    /// True: L2S-M LPM's series, too.
    l2sm_series: bool,
    hash: Arc<ConfigHash>,
    http: Arc<HttpCounts>,
    access: Arc<Access>,
}

/// What the HTTP server shows of a session.
fn app(session: &Session, shown: Shown) -> App {
    let Shown {
        l2sm_series,
        hash,
        http: counts,
        access,
    } = shown;
    let http = Arc::clone(&counts);
    let passive = session.passive();
    let mut sources = match passive {
        Some(passive) => {
            let model = passive.hub().shared_model();
            Collectors::of_agent(model, hash, passive.program_times(), http)
        }
        None => Collectors::of_prober(hash, http),
    };
    if let Some(active) = session.active() {
        sources = sources.and_probes(active.figures(), active.answers());
        if l2sm_series {
            sources = sources.and_l2sm_series(active.figures());
        }
    }
    let metrics = Metrics::new(sources);
    let metrics = match passive.and_then(Passive::counting_since) {
        Some(since) => metrics.counting_since(since),
        None => metrics,
    };
    App {
        metrics: Arc::new(metrics),
        hub: passive.map(|passive| Arc::clone(passive.hub())),
        nodes: Arc::clone(session.registry().publisher()),
        probes: session.active().map(|active| Arc::clone(active.figures())),
        counts,
        // The session has dealt with every interface that was there.
        ready: Arc::new(AtomicBool::new(true)),
        access,
    }
}

/// The check for a successor at the agent's end. None: there is nobody to ask, or nothing to keep.
fn farewell(config: &Config) -> Option<SuccessorCheck> {
    let asked = config
        .identity
        .kubernetes()
        .filter(|_| config.pins.enabled)?;
    let node = node_name(config.node_name.as_deref())?;
    SuccessorCheck::prepare(asked.kubeconfig, node.to_string())
}

fn log(notice: &Notice) {
    match notice {
        Notice::Failed { .. } => tracing::error!("{notice}"),
        Notice::Blind { blind: Some(_), .. } => tracing::warn!("{notice}"),
        _ => tracing::info!("{notice}"),
    }
}

/// The files of the configuration, and when they last changed.
struct Files {
    config: Option<PathBuf>,
    names: Option<PathBuf>,
    seen: Vec<Option<SystemTime>>,
}

impl Files {
    fn new(config: Option<PathBuf>, names: Option<PathBuf>) -> Self {
        let mut files = Self {
            config,
            names,
            seen: Vec::new(),
        };
        files.seen = files.times();
        files
    }

    /// Follows another names file, which the configuration now points to.
    fn follow(&mut self, names: Option<PathBuf>) {
        self.names = names;
        self.seen = self.times();
    }

    /// True if a file has changed since the last look.
    fn changed(&mut self) -> bool {
        let now = self.times();
        let changed = now != self.seen;
        self.seen = now;
        changed
    }

    fn times(&self) -> Vec<Option<SystemTime>> {
        [&self.config, &self.names]
            .into_iter()
            .flatten()
            .map(|path| fs::metadata(path).and_then(|file| file.modified()).ok())
            .collect()
    }
}
