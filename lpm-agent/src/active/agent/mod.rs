//! The active half of an agent: it answers probes, and probes by itself. It needs no kernel program
//! and no privilege, but for ports below 1024.
//!
//! One thread sends all probes ([`prober`]), one for each address answers them ([`answering`]), and one
//! gives each link a verdict ([`judging`]).
//! [`figures`] are shared with those who show them.

mod answering;
pub mod figures;
mod judging;
mod losses;
mod own;
mod prober;
mod probing;
mod resolve;
mod silence;
mod spec;
mod targets;
mod train;

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use ipnet::IpNet;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use thiserror::Error;

use answering::Answering;
pub use answering::Answers;
use figures::Figures;
use judging::Judging;
pub use own::OwnProbing;
use prober::Prober;
use spec::Read;
pub use targets::LeftOut;
use targets::{Targets, Wanted};

use super::{allow::Allow, mac::KeyError, verdict::PassiveLiveness};
use crate::{
    config::{self, Allowed, Config, node_name},
    identity::{Registry, UNKNOWN},
    kernel::netns::Netns,
};

/// Descriptors of a session: its socket, and two that watch the clock and keep the kernel stamping.
const PER_SESSION: u64 = 3;

/// Descriptors of everything else in an agent.
const OTHERS: u64 = 1024;

/// Why probes can be neither sent nor answered.
#[derive(Debug, Error)]
pub enum ActiveError {
    /// A key cannot be read.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A thread or a descriptor cannot be had.
    #[error(
        "cannot start to probe: {0}; raise the limits of processes and open files (ulimit -u, ulimit -n)"
    )]
    Start(#[from] io::Error),
}

/// The active half of a running agent. Dropping it ends its threads.
#[derive(Debug)]
pub struct Active {
    following: Arc<Following>,
    _judging: Judging,
    _answering: Answering,
    allow: Allow,
    registry: Arc<Registry>,
    figures: Arc<Figures>,
    answers: Arc<Answers>,
}

impl Active {
    /// Starts to answer and to probe what the configuration says. Threads enter the network
    /// namespace; None: they stay in the caller's. `passive` knows others' flows; None: nobody does.
    ///
    /// # Errors
    /// A key cannot be read, or the kernel gives no thread.
    pub fn start(
        config: &Config,
        registry: &Arc<Registry>,
        netns: Option<Netns>,
        passive: Option<Arc<dyn PassiveLiveness>>,
    ) -> Result<Self, ActiveError> {
        let node = node_name(config.node_name.as_deref()).unwrap_or_else(|| UNKNOWN.into());
        let netns = netns.map(Arc::new);
        let targets = Targets::new(Arc::clone(&node), Read::new(&config.probes)?);
        let allow = Allow::default();
        let settings = answering::settings(&config.reflector, allow.clone())?;
        allow_by(&allow, &config.reflector, registry);
        let (figures, answers) = (Arc::new(Figures::new(node)), Arc::<Answers>::default());
        figures.group_by(groups(config));
        let listen = &config.reflector.listen;
        let answering = Answering::start(listen, &settings, &answers, netns.as_ref())?;
        let around = (Arc::clone(registry), passive);
        let judging = Judging::start(Arc::clone(&figures), around, netns.as_ref())?;
        let prober = Prober::start(Arc::clone(&figures), allow.clone(), netns)?;
        let following = Arc::new(Following {
            targets: Mutex::new(targets),
            prober,
            figures: Arc::clone(&figures),
        });
        following.change(|_| {});
        // A list that comes later than the end is nobody's.
        let its = Arc::downgrade(&following);
        registry.cluster_nodes().follow(move |nodes| {
            if let Some(following) = its.upgrade() {
                following.change(|targets| targets.set_nodes(Arc::clone(nodes)));
            }
        });
        say_what_nodes_need(config);
        Ok(Self {
            following,
            _judging: judging,
            _answering: answering,
            allow,
            registry: Arc::clone(registry),
            figures,
            answers,
        })
    }

    /// Reads what another configuration wants, without applying it.
    ///
    /// # Errors
    /// A key cannot be read.
    pub fn prepare(config: &Config) -> Result<Prepared, ActiveError> {
        Ok(Prepared {
            read: Read::new(&config.probes)?,
            groups: groups(config),
            reflector: config.reflector.clone(),
        })
    }

    /// Probes what was prepared, and allows whom it allows. Sessions that stay as they are go on.
    pub fn apply(&self, prepared: Prepared) {
        allow_by(&self.allow, &prepared.reflector, &self.registry);
        self.figures.group_by(prepared.groups);
        self.following
            .change(|targets| targets.set_read(prepared.read));
    }

    /// The figures of the probes.
    #[must_use]
    pub fn figures(&self) -> &Arc<Figures> {
        &self.figures
    }

    /// What the reflectors have counted.
    #[must_use]
    pub fn answers(&self) -> &Arc<Answers> {
        &self.answers
    }
}

/// What [`Active::apply`] takes.
#[derive(Debug)]
pub struct Prepared {
    read: Read,
    groups: Vec<Arc<str>>,
    reflector: config::Reflector,
}

/// The tags by which targets are put together.
fn groups(config: &Config) -> Vec<Arc<str>> {
    let groups = config.probes.groups.iter();
    groups.map(|tag| tag.as_str().into()).collect()
}

/// What decides on the sessions, and what has them.
#[derive(Debug)]
struct Following {
    targets: Mutex<Targets>,
    prober: Prober,
    figures: Arc<Figures>,
}

impl Following {
    /// Changes what decides on the sessions, and probes what is wanted then.
    fn change(&self, change: impl FnOnce(&mut Targets)) {
        // The lock is held to the end, so that the prober gets the lists in their order.
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut targets);
        let Wanted {
            specs,
            left_out,
            stretch,
        } = targets.wanted();
        make_room(specs.len());
        let mut together = self.figures.together();
        (together.left_out, together.stretch) = (left_out, stretch);
        drop(together);
        self.prober.configure(specs);
    }
}

/// Says that nodes cannot be probed where nobody tells which there are.
fn say_what_nodes_need(config: &Config) {
    if config.probes.nodes.enabled && config.identity.kubernetes().is_none() {
        tracing::error!(
            "no node is probed: probes.nodes takes names from Kubernetes; give \
             identity.kubernetes.kubeconfig, or identity.kubernetes.enabled: true in a pod"
        );
    }
}

/// Raises the limit of open files for so many sessions, as far as the hard limit allows. What finds
/// no room is told when its socket is opened.
fn make_room(sessions: usize) {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    let wanted = OTHERS + PER_SESSION * sessions as u64;
    if sessions > 0 && soft < wanted.min(hard) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard);
    }
}

/// Allows whom the configuration allows.
fn allow_by(allow: &Allow, reflector: &config::Reflector, registry: &Arc<Registry>) {
    let mut ranges: Vec<IpNet> = Vec::new();
    let (mut nodes, mut peers) = (None, false);
    for allowed in &reflector.allow {
        match allowed {
            Allowed::Local => ranges.extend(local()),
            Allowed::Nodes => nodes = Some(Arc::clone(registry)),
            Allowed::Peers => peers = true,
            Allowed::Range(range) => ranges.push(*range),
        }
    }
    allow.set(ranges, nodes, peers);
}

/// The loopback addresses.
fn local() -> [IpNet; 2] {
    let v4 = IpNet::new_assert([127, 0, 0, 0].into(), 8);
    [
        v4,
        std::net::IpAddr::from(std::net::Ipv6Addr::LOCALHOST).into(),
    ]
}
