//! `lpm run`: the agent.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, SystemTime},
};

use clap::Args;

use super::{Measure, measuring, memory, runtime, signals};
use crate::{
    api::{self, App, Server},
    config::{Config, node_name},
    export::{Metrics, agent::ConfigHash, collect::Collectors},
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

    /// The configuration file.
    pub(super) fn config_file(&self) -> Option<&Path> {
        self.measure.config.as_deref()
    }

    pub(super) fn execute(self, netns: Option<&String>) -> anyhow::Result<()> {
        memory::give_back();
        runtime()?.block_on(self.serve(netns))
    }

    async fn serve(self, netns: Option<&String>) -> anyhow::Result<()> {
        let mut end = signals::End::new(false)?;
        let config = self.config(netns)?;
        // The port comes first: a second agent must not touch an interface.
        let server = Server::bind(config.listen).await?;
        let hash = Arc::new(ConfigHash::new(config.hash()));
        let farewell = farewell(&config);
        let mut files = Files::new(self.measure.config.clone(), config.names.clone());
        let options = Options {
            config,
            only: self.measure.interface.clone(),
            layout_version: self.layout_version,
            passive: true,
        };
        let session = Session::start(options, |notice| log(&notice))?;
        let passive = measuring(&session)?;
        let app = app(passive, &hash);
        tracing::info!("metrics at http://{}/metrics", server.address());
        let serving = server.serve(api::router(app), async move { end.wait().await });
        tokio::pin!(serving);
        let mut hangup = signals::reload()?;
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                done = &mut serving => {
                    done?;
                    break;
                }
                _ = hangup.recv() => self.reload(netns, &session, &hash, &mut files),
                _ = look.tick() => {
                    if files.changed() {
                        self.reload(netns, &session, &hash, &mut files);
                    }
                }
            }
        }
        let leaving = match farewell {
            Some(farewell) => farewell.ask().await,
            None if passive.is_pinned() => OnExit::KeepPinned("they are pinned".to_owned()),
            None => OnExit::Detach("nothing is pinned".to_owned()),
        };
        tracing::info!("{leaving}");
        match leaving {
            OnExit::KeepPinned(_) => drop(session),
            OnExit::Detach(_) => session.detach(),
        }
        Ok(())
    }

    fn config(&self, netns: Option<&String>) -> anyhow::Result<Config> {
        let mut config = self.measure.config(netns, self.listen)?;
        if let Some(path) = &self.pins {
            config.pins.enabled = true;
            config.pins.path.clone_from(path);
            config.check()?;
        }
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

/// What the HTTP server shows of a session.
fn app(passive: &Passive, hash: &Arc<ConfigHash>) -> App {
    let metrics = Metrics::new(Collectors::of_agent(
        passive.hub().shared_model(),
        Arc::clone(hash),
        passive.program_times(),
    ));
    let metrics = match passive.counting_since() {
        Some(since) => metrics.counting_since(since),
        None => metrics,
    };
    App {
        metrics: Arc::new(metrics),
        hub: Arc::clone(passive.hub()),
        // The session has dealt with every interface that was there.
        ready: Arc::new(AtomicBool::new(true)),
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
