//! Attaches hooks to interfaces and detaches them.

use std::{collections::BTreeMap, time::SystemTime};

use lpm_common::layout::Vantage;

use super::{Active, Worker};
use crate::kernel::{
    attach::AttachError,
    bpf::Direction,
    hotplug::{AttachedInterface, Event, lock},
    interfaces::Interface,
    liveness,
    rules::Extras,
};

impl Worker {
    pub(super) fn attach(
        &mut self,
        interface: &Interface,
        vantage: Vantage,
        extras: Extras,
    ) -> Result<(), AttachError> {
        let index = interface.index;
        let mut config = self.describe.describe(interface, vantage);
        config.vantage = vantage as u8;
        // The settings are written before the first packet passes.
        if let Err(error) = self.table.set(index, config) {
            tracing::error!(interface = interface.name, %error, "the interface's settings could not be written to the kernel's map INTERFACES");
        }
        if vantage == Vantage::Node
            && let Some(Err(error)) = self.evidence.as_mut().map(|by| by.join(index))
        {
            tracing::error!(interface = interface.name, %error, "the agent will not notice when the CNI stops redirecting packets past this interface");
        }
        let attachment = match self.attacher.attach(interface, vantage, extras) {
            Ok(attachment) => attachment,
            Err(error) => {
                self.forget(index);
                return Err(error);
            }
        };
        let shown = AttachedInterface {
            interface: interface.clone(),
            vantage,
            extras,
            mode: self.attacher.mode,
            since: SystemTime::now(),
            note: attachment.note.clone(),
        };
        self.active.insert(
            index,
            Active {
                shown: shown.clone(),
                config,
                attachment,
                // Without the sign, only `lpm check` knows less.
                sign: (vantage == Vantage::Node)
                    .then(|| liveness::announce_joined(index).ok())
                    .flatten(),
                watches: BTreeMap::new(),
                blind: None,
            },
        );
        self.refused.remove(&index);
        lock(&self.state).attached.insert(index, shown.clone());
        (self.on_event)(Event::Attached(shown));
        Ok(())
    }

    pub(super) fn detach(&mut self, index: u32, gone: bool) {
        let Some(Active {
            shown,
            attachment,
            sign,
            ..
        }) = self.active.remove(&index)
        else {
            return;
        };
        drop(sign);
        self.attacher.detach(&shown.interface, attachment);
        self.forget(index);
        if shown.vantage == Vantage::Node
            && let Some(Err(error)) = self.evidence.as_mut().map(|by| by.part(index))
        {
            tracing::error!(interface = shown.interface.name, %error, "the addresses of this interface's pod could not be removed from the kernel's map HOMES");
        }
        lock(&self.state).attached.remove(&index);
        (self.on_event)(Event::Detached {
            interface: shown,
            gone,
        });
    }

    pub(super) fn detach_all(&mut self) {
        for index in self.active.keys().copied().collect::<Vec<_>>() {
            self.detach(index, false);
        }
    }

    pub(super) fn forget(&mut self, index: u32) {
        self.describe.forget(index);
        if let Err(error) = self.table.remove(index) {
            tracing::error!(index, %error, "the interface's settings could not be removed from the kernel's map INTERFACES");
        }
    }

    /// Removes the filters of a killed predecessor, on any interface that its rules named.
    pub(super) fn remove_leftovers(&mut self) {
        for interface in self.known.values() {
            for direction in [Direction::Ingress, Direction::Egress] {
                match self.attacher.remove_leftovers(interface.index, direction) {
                    Ok(removed) if removed.is_empty() => {}
                    Ok(removed) => (self.on_event)(Event::LeftoversRemoved {
                        interface: interface.name.clone(),
                        filters: removed.len(),
                    }),
                    Err(error) => {
                        tracing::warn!(interface = interface.name, %direction, %error, "the agent could not look for filters that a former agent left behind");
                    }
                }
            }
        }
    }
}
