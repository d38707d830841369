//! The worker of the hotplug thread: see [`super::hotplug`].

mod attaching;
mod handover;
mod interface_config;
mod node_hooks;
mod reconcile;
mod watching;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::AsFd,
    sync::{Arc, Mutex, mpsc::Receiver},
    time::{Duration, Instant},
};

use lpm_common::layout::InterfaceConfig;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::EventFd,
};

use self::reconcile::Retry;
use super::{
    attach::{Attacher, Attachment},
    blind::{Blind, Watch},
    contest,
    hotplug::{
        AttachedInterface, Command, Describe, Event, InterfaceTable, Settings, StartError, State,
        lock,
    },
    interfaces::{self, Interface},
    liveness::{self, Liveness},
    load::Programs,
    netlink::{Heard, Listener},
    one_sided::{DirectionCounts, Evidence, OneSidedDetector},
    pins::Slot,
    rules::Rules,
};

/// Longest time between two inspections of all hooks. The shortest is half of it.
const INSPECTION: Duration = Duration::from_secs(10);

/// Longest time between two looks at a hook that another program has just come before.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// An attached interface.
struct Active {
    shown: AttachedInterface,
    /// Settings of the interface in the kernel.
    config: InterfaceConfig,
    attachment: Attachment,
    /// The sign for `lpm check`, if the interface is watched as `node`.
    sign: Option<Liveness>,
    /// State of the interface's hooks.
    watches: BTreeMap<Slot, Watch>,
    /// The blind hook that was reported last. None: the hooks see the packets.
    blind: Option<Blind>,
}

pub(crate) struct Worker {
    listener: Listener,
    attacher: Attacher,
    rules: Rules,
    describe: Box<dyn Describe>,
    describe_at: Option<Instant>,
    evidence: Option<Box<dyn Evidence>>,
    judge: OneSidedDetector,
    /// Packets by direction that the flows showed at the last look.
    sides: BTreeMap<u32, DirectionCounts>,
    evaluate_at: Instant,
    table: Box<dyn InterfaceTable>,
    on_event: Box<dyn FnMut(Event) + Send>,
    /// Every interface of the namespace.
    known: BTreeMap<u32, Interface>,
    active: BTreeMap<u32, Active>,
    retries: BTreeMap<u32, Retry>,
    /// Interfaces that were reported as refused. Attaching is tried again.
    refused: BTreeSet<u32>,
    state: Arc<Mutex<State>>,
    inspect_at: Instant,
    /// Time of the next look at disturbed hooks. None: no hook was disturbed.
    look_again_at: Option<Instant>,
    _presence: Liveness,
}

impl Worker {
    pub(crate) fn start(
        settings: Settings,
        programs: Arc<Programs>,
        table: Box<dyn InterfaceTable>,
        on_event: Box<dyn FnMut(Event) + Send>,
        state: Arc<Mutex<State>>,
    ) -> Result<Self, StartError> {
        if let Some(netns) = &settings.netns {
            netns.enter()?;
        }
        // The subscription comes before the first look, so that changes in between are heard.
        let listener = Listener::open().map_err(StartError::Netlink)?;
        let ids: Vec<u32> = programs.iter().map(|program| program.id).collect();
        let presence = liveness::announce(&ids).map_err(StartError::Thread)?;
        let attacher =
            Attacher::new(programs, settings.mode, settings.pins).map_err(StartError::Netlink)?;
        let mut worker = Self {
            listener,
            attacher,
            rules: settings.rules,
            describe_at: settings.describe.look_every().map(|_| Instant::now()),
            describe: settings.describe,
            evidence: settings.evidence,
            judge: OneSidedDetector::default(),
            sides: BTreeMap::new(),
            evaluate_at: Instant::now() + node_hooks::EVALUATE_EVERY,
            table,
            on_event,
            known: BTreeMap::new(),
            active: BTreeMap::new(),
            retries: BTreeMap::new(),
            refused: BTreeSet::new(),
            state,
            inspect_at: Instant::now() + contest::pause(INSPECTION, fastrand::f64()),
            look_again_at: None,
            _presence: presence,
        };
        worker.known = interfaces::dump(&mut worker.attacher.route).map_err(StartError::Netlink)?;
        worker.remove_leftovers();
        let before = worker.inherit()?;
        worker.attach_asked_for()?;
        worker.consider_all();
        worker.join_hooks();
        worker.release(&before);
        Ok(worker)
    }

    /// Attaches the interfaces that were asked for by name. If one is missing or refused, watching
    /// does not begin.
    fn attach_asked_for(&mut self) -> Result<(), StartError> {
        for name in self.rules.only.clone() {
            let Some(interface) = self
                .known
                .values()
                .find(|known| known.name == name)
                .cloned()
            else {
                let there = self
                    .known
                    .values()
                    .map(|known| known.name.clone())
                    .collect();
                return Err(StartError::NoSuchInterface { name, there });
            };
            let decision = self.rules.decide(&interface, &self.known);
            if let Some(vantage) = decision.vantage
                && !self.active.contains_key(&interface.index)
                && let Err(error) = self.attach(&interface, vantage, decision.extras)
            {
                self.detach_all();
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Works until told to stop. Then everything is detached.
    pub(crate) fn run(&mut self, commands: &Receiver<Command>, wake: &EventFd) {
        loop {
            if let Err(error) = self.wait(wake) {
                tracing::error!(%error, "the agent cannot wait for interface changes");
                break;
            }
            let mut stop = false;
            for command in commands.try_iter() {
                match command {
                    Command::Rules(rules) => {
                        self.rules = rules;
                        self.consider_all();
                    }
                    Command::Resync => self.resync(),
                    Command::Stop => stop = true,
                }
            }
            if stop {
                break;
            }
            self.listen();
            self.retry();
            self.inspect();
            self.describe_again();
            self.evaluate();
            self.join_hooks();
        }
        self.count_no_more();
        if !self
            .attacher
            .pins
            .as_ref()
            .is_some_and(|pins| pins.are_kept())
        {
            self.detach_all();
        }
    }

    /// Sleeps until there is something to do.
    fn wait(&self, wake: &EventFd) -> io::Result<()> {
        let next = self
            .retries
            .values()
            .map(|retry| retry.at)
            .chain(self.describe_at)
            .chain(self.look_again_at)
            .fold(self.inspect_at.min(self.evaluate_at), Instant::min);
        let wait = next.saturating_duration_since(Instant::now());
        // The time is rounded up: waking a millisecond early would spin until it has come.
        let wait = PollTimeout::try_from(wait.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        let mut fds = [
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(wake.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, wait) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        // The event is emptied here, before the commands are read: a later command wakes us again.
        match wake.read() {
            Ok(_) | Err(Errno::EAGAIN) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn listen(&mut self) {
        let heard = self.listener.drain().unwrap_or_else(|error| {
            tracing::warn!(%error, "rtnetlink failed; the agent lists the interfaces again");
            vec![Heard::Lost]
        });
        let mut lost = false;
        for heard in heard {
            match heard {
                Heard::Link(message, exists) => {
                    let Some(interface) = Interface::from_message(&message) else {
                        continue;
                    };
                    if exists {
                        self.appeared(interface);
                    } else {
                        self.vanished(interface.index);
                    }
                }
                Heard::Lost => lost = true,
            }
        }
        if lost {
            self.resync();
        }
    }

    fn appeared(&mut self, interface: Interface) {
        let index = interface.index;
        let changed = self.known.get(&index) != Some(&interface);
        self.known.insert(index, interface);
        if changed {
            self.reconcile(index);
            // The rules may now decide otherwise on the interfaces below it, such as a card in a
            // new bond.
            let lower: Vec<u32> = self
                .known
                .values()
                .filter(|known| known.master == Some(index))
                .map(|known| known.index)
                .collect();
            for index in lower {
                self.reconcile(index);
            }
        }
    }

    fn vanished(&mut self, index: u32) {
        self.known.remove(&index);
        self.retries.remove(&index);
        self.give_up(index);
        self.detach(index, true);
        self.judge.forget(index);
    }

    /// Relists the interfaces and makes good whatever was missed.
    fn resync(&mut self) {
        let found = match interfaces::dump(&mut self.attacher.route) {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "the interfaces could not be listed; the agent will try again in 10 s");
                return;
            }
        };
        let gone: Vec<u32> = self
            .known
            .keys()
            .filter(|index| !found.contains_key(index))
            .copied()
            .collect();
        for index in gone {
            self.vanished(index);
        }
        self.known = found;
        // An interface may have gone, and another may have come with its index.
        self.reattach_broken();
        self.inspect_at = Instant::now();
        self.consider_all();
        lock(&self.state).resyncs += 1;
        (self.on_event)(Event::Resynced);
    }
}
