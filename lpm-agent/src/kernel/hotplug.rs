//! The hotplug thread: interfaces come and go, and the programs follow.
//!
//! The thread runs in the network namespace that it watches. It holds an invariant: **an interface
//! is active if and only if both programs are attached**. They are attached if and only if the
//! interface exists and a rule matches.
//!
//! The thread subscribes first and lists second, so that nothing falls in between. When the kernel
//! drops messages, it relists. A failure is retried, ever more rarely. At intervals the thread
//! inspects whether the hooks are still where it put them.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use aya::maps::{HashMap, MapData, MapError};
use lpm_common::layout::{InterfaceConfig, Vantage};
use nix::sys::eventfd::{EfdFlags, EventFd};
use thiserror::Error;

use super::{
    attach::{AttachError, Mode},
    interfaces::Interface,
    load::Programs,
    netns::{Netns, NetnsError},
    one_sided::Evidence,
    pins::{PinError, Pins},
    rules::{Extras, Rules},
    worker::Worker,
};

pub use super::events::Event;

/// Makes the settings of interfaces for the kernel programs.
pub trait Describe: Send {
    /// The settings of an interface that is attached, or about to be. The rules' vantage replaces
    /// `vantage`.
    fn describe(&mut self, interface: &Interface, vantage: Vantage) -> InterfaceConfig;

    /// Drops what is known of an interface that is gone, or not watched any more.
    fn forget(&mut self, index: u32);

    /// Interval at which to ask [`Self::is_stale`]. None: never.
    fn look_every(&self) -> Option<Duration>;

    /// True if a pod's interface carries other pods' packets, as at a switch that runs as a pod.
    /// Then it is watched as a bridge, so that their flows are not counted twice.
    fn passes_others(&self, _: &Interface) -> bool {
        false
    }

    /// True if the settings of interfaces may have changed since the last call.
    fn is_stale(&mut self) -> bool;
}

/// A [`Describe`] that knows nothing about the local ends.
#[derive(Debug)]
pub struct Unknown;

impl Describe for Unknown {
    fn describe(&mut self, _: &Interface, _: Vantage) -> InterfaceConfig {
        InterfaceConfig::default()
    }

    fn forget(&mut self, _: u32) {}

    fn look_every(&self) -> Option<Duration> {
        None
    }

    fn is_stale(&mut self) -> bool {
        false
    }
}

/// Settings of the hotplug thread.
pub struct Settings {
    /// The rules that choose interfaces and their vantages.
    pub rules: Rules,
    /// The mode of attaching.
    pub mode: Mode,
    /// The network namespace to watch. None: that of the caller.
    pub netns: Option<Netns>,
    /// Makes the settings of an interface for the kernel programs.
    pub describe: Box<dyn Describe>,
    /// Evidence for interfaces that carry one direction only. None: nobody looks.
    pub evidence: Option<Box<dyn Evidence>>,
    /// The pins that keep the hooks beyond the agent's end. None: the hooks end with the agent.
    pub pins: Option<Arc<Pins>>,
}

impl Settings {
    /// Settings with these rules, in the caller's namespace, with nothing known about the local
    /// ends.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            mode: Mode::Auto,
            netns: None,
            describe: Box::new(Unknown),
            evidence: None,
            pins: None,
        }
    }
}

/// A watched interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedInterface {
    /// The interface as last seen.
    pub interface: Interface,
    /// Vantage as which the interface is watched.
    pub vantage: Vantage,
    /// Options of the rule beyond the vantage.
    pub extras: Extras,
    /// Mode of attaching: `Tcx` or `Netlink`.
    pub mode: Mode,
    /// When the programs were attached.
    pub since: SystemTime,
    /// A remark for people, if something about the place is unusual.
    pub note: Option<String>,
}

/// Why the hotplug thread could not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The namespace cannot be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// An interface that was asked for by name does not exist.
    #[error("there is no interface {name} in this network namespace; it has: {}", .there.join(", "))]
    NoSuchInterface {
        /// The name that was asked for.
        name: String,
        /// Names of the interfaces that exist.
        there: Vec<String>,
    },
    /// The pins of the last agent cannot be read.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// Programs cannot be attached to an interface that was asked for by name.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// rtnetlink does not work.
    #[error(
        "cannot watch for interface changes (rtnetlink): {0}; check whether a seccomp profile or \
         systemd's RestrictAddressFamilies forbids AF_NETLINK"
    )]
    Netlink(#[source] io::Error),
    /// The thread could not be started or announced.
    #[error("cannot start the thread that watches interfaces: {0}")]
    Thread(#[source] io::Error),
}

/// The settings of interfaces for the kernel programs (map `INTERFACES`).
pub trait InterfaceTable: Send {
    /// Sets the settings of the interface with this index.
    fn set(&mut self, index: u32, config: InterfaceConfig) -> Result<(), MapError>;
    /// Removes the settings of an interface. Without settings nothing happens.
    fn remove(&mut self, index: u32) -> Result<(), MapError>;
    /// Indices and vantages of all interfaces with settings, as the last agent left them.
    fn all(&self) -> Vec<(u32, Option<Vantage>)> {
        Vec::new()
    }
}

impl InterfaceTable for HashMap<MapData, u32, [u8; 8]> {
    fn set(&mut self, index: u32, config: InterfaceConfig) -> Result<(), MapError> {
        self.insert(index, config_bytes(config), 0)
    }

    fn remove(&mut self, index: u32) -> Result<(), MapError> {
        match HashMap::remove(self, &index) {
            Err(MapError::KeyNotFound) => Ok(()),
            done => done,
        }
    }

    fn all(&self) -> Vec<(u32, Option<Vantage>)> {
        let entries = self.iter().filter_map(Result::ok);
        entries
            .map(|(index, [vantage, ..])| (index, Vantage::from_raw(vantage)))
            .collect()
    }
}

/// The bytes of an [`InterfaceConfig`] in memory.
fn config_bytes(config: InterfaceConfig) -> [u8; 8] {
    let [a, b, c, d] = config.local.0.to_ne_bytes();
    [config.vantage, config.local_kind, 0, 0, a, b, c, d]
}

/// State of the thread that others may read.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) attached: BTreeMap<u32, AttachedInterface>,
    /// Attempts that failed. An interface that vanished meanwhile is no failure.
    pub(crate) failures: u64,
    pub(crate) resyncs: u64,
}

/// A command to the thread.
#[derive(Debug)]
pub(crate) enum Command {
    Rules(Rules),
    Resync,
    Stop,
}

/// Handle of the hotplug thread. Dropping it stops the thread and detaches everything.
#[derive(Debug)]
pub struct Hotplug {
    thread: Option<JoinHandle<()>>,
    commands: Sender<Command>,
    wake: Arc<EventFd>,
    state: Arc<Mutex<State>>,
}

impl Hotplug {
    /// Starts the thread. Returns once every existing interface has been handled.
    ///
    /// A missing interface that was asked for by name, or one that cannot be attached to, is an
    /// error here. Later, and for interfaces found by rules, it is an [`Event::Failed`].
    pub fn start(
        settings: Settings,
        programs: Arc<Programs>,
        table: impl InterfaceTable + 'static,
        on_event: impl FnMut(Event) + Send + 'static,
    ) -> Result<Self, StartError> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| StartError::Thread(errno.into()))?;
        let wake = Arc::new(wake);
        let state = Arc::new(Mutex::new(State::default()));
        let (commands, receiver) = mpsc::channel();
        let (ready, started) = mpsc::channel();
        let (thread_wake, thread_state) = (Arc::clone(&wake), Arc::clone(&state));
        let thread = thread::Builder::new()
            .name("lpm-hotplug".to_owned())
            .spawn(move || {
                let worker = Worker::start(
                    settings,
                    programs,
                    Box::new(table),
                    Box::new(on_event),
                    thread_state,
                );
                match worker {
                    Ok(mut worker) => {
                        // The send fails only if the caller died.
                        let _ = ready.send(Ok(()));
                        worker.run(&receiver, &thread_wake);
                    }
                    Err(error) => drop(ready.send(Err(error))),
                }
            })
            .map_err(StartError::Thread)?;
        match started.recv() {
            Ok(Ok(())) => Ok(Self {
                thread: Some(thread),
                commands,
                wake,
                state,
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(StartError::Thread(io::Error::other(
                "it panicked while starting",
            ))),
        }
    }

    /// The interfaces that are watched now.
    #[must_use]
    pub fn attached(&self) -> Vec<AttachedInterface> {
        lock(&self.state).attached.values().cloned().collect()
    }

    /// Number of attempts to attach that failed so far.
    #[must_use]
    pub fn failures(&self) -> u64 {
        lock(&self.state).failures
    }

    /// Number of relists because the kernel dropped messages.
    #[must_use]
    pub fn resyncs(&self) -> u64 {
        lock(&self.state).resyncs
    }

    /// Applies other rules. It attaches and detaches what they change, and nothing else.
    pub fn set_rules(&self, rules: Rules) {
        self.tell(Command::Rules(rules));
    }

    /// Relists the interfaces, as after a loss of messages.
    pub fn resync(&self) {
        self.tell(Command::Resync);
    }

    /// Detaches everything and ends the thread. Dropping does the same.
    pub fn stop(self) {
        drop(self);
    }

    fn tell(&self, command: Command) {
        // Both sends fail only if the thread has ended, and then there is nothing to tell.
        let _ = self.commands.send(command);
        let _ = self.wake.write(1);
    }
}

impl Drop for Hotplug {
    fn drop(&mut self) {
        self.tell(Command::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that watches interfaces panicked");
        }
    }
}

/// Locks the state, also after a panic elsewhere: it is only replaced whole.
pub(crate) fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use lpm_common::layout::NameId;

    use super::*;

    #[test]
    fn the_settings_of_an_interface_in_memory() {
        let config = InterfaceConfig {
            vantage: 1,
            local_kind: 2,
            local: NameId(0x0003_0405),
            reserved: 0,
        };
        let [a, b, c, d] = 0x0003_0405_u32.to_ne_bytes();
        assert_eq!(config_bytes(config), [1, 2, 0, 0, a, b, c, d]);
        assert_eq!(std::mem::offset_of!(InterfaceConfig, local_kind), 1);
        assert_eq!(std::mem::offset_of!(InterfaceConfig, local), 4);
    }
}
