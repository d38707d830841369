//! Reconciles one interface with the rules, and retries what failed.

use std::time::{Duration, Instant};

use lpm_common::layout::Vantage;

use super::Worker;
use crate::kernel::{
    attach::AttachError,
    hotplug::{Event, lock},
    interfaces::Interface,
};

/// First wait before a failed attempt is repeated. It doubles up to [`LONGEST_RETRY`].
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_mins(1);

/// A failed attempt, and when to repeat it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retry {
    pub(super) at: Instant,
    wait: Duration,
}

impl Worker {
    pub(super) fn retry(&mut self) {
        let now = Instant::now();
        let due: Vec<u32> = self
            .retries
            .iter()
            .filter(|(_, retry)| retry.at <= now)
            .map(|(index, _)| *index)
            .collect();
        for index in due {
            self.reconcile(index);
        }
    }

    pub(super) fn consider_all(&mut self) {
        for index in self.known.keys().copied().collect::<Vec<_>>() {
            self.reconcile(index);
        }
    }

    /// Brings one interface into the state that the rules want.
    pub(super) fn reconcile(&mut self, index: u32) {
        let Some(interface) = self.known.get(&index).cloned() else {
            return;
        };
        let wanted = self.wanted(&interface);
        let extras = self.rules.decide(&interface, &self.known).extras;
        if let Some(active) = self.active.get_mut(&index) {
            if Some(active.shown.vantage) == wanted && active.shown.extras == extras {
                let old = std::mem::replace(&mut active.shown.interface, interface);
                let shown = active.shown.clone();
                lock(&self.state).attached.insert(index, shown.clone());
                if old.name != shown.interface.name {
                    (self.on_event)(Event::Renamed {
                        interface: shown,
                        old: old.name,
                    });
                }
                return;
            }
            self.detach(index, false);
        }
        let Some(vantage) = wanted else {
            self.retries.remove(&index);
            self.give_up(index);
            return;
        };
        match self.attach(&interface, vantage, extras) {
            // The interface is gone. The message that says so is under way.
            Ok(()) | Err(AttachError::Gone { .. }) => drop(self.retries.remove(&index)),
            Err(error) => self.failed(interface, vantage, error),
        }
    }

    pub(super) fn failed(&mut self, interface: Interface, vantage: Vantage, error: AttachError) {
        lock(&self.state).failures += 1;
        // A link type does not change, nor do the programs. Everything else may.
        let retry = match &error {
            AttachError::LinkType { .. }
            | AttachError::InnerLinkType { .. }
            | AttachError::NotLoaded { .. } => false,
            AttachError::Xdp(error) => error.may_pass(),
            _ => true,
        };
        if retry {
            let wait = self
                .retries
                .get(&interface.index)
                .map_or(FIRST_RETRY, |last| (last.wait * 2).min(LONGEST_RETRY));
            self.retries.insert(
                interface.index,
                Retry {
                    at: Instant::now() + wait,
                    wait,
                },
            );
        }
        if retry {
            self.refused.insert(interface.index);
        }
        (self.on_event)(Event::Failed {
            interface,
            vantage,
            error,
            retry,
        });
    }

    /// Drops the report of a refused interface that is not missed any more.
    pub(super) fn give_up(&mut self, index: u32) {
        if self.refused.remove(&index) {
            (self.on_event)(Event::GivenUp { index });
        }
    }
}
