//! Updates the settings of watched interfaces in the kernel.

use std::time::Instant;

use lpm_common::layout::{InterfaceConfig, Vantage};

use super::{Event, Worker};

impl Worker {
    /// Writes changed settings of the watched interfaces into the kernel.
    pub(super) fn describe_again(&mut self) {
        let (Some(at), Some(every)) = (self.describe_at, self.describe.look_every()) else {
            return;
        };
        if Instant::now() < at {
            return;
        }
        self.describe_at = Some(Instant::now() + every);
        if !self.describe.is_stale() {
            return;
        }
        // It may turn out only after attaching that a pod's interface belongs to a switch.
        let active = self.active.iter();
        let switches = active.filter(|(_, active)| {
            let is_pod = active.shown.vantage == Vantage::Pod;
            is_pod && self.describe.passes_others(&active.shown.interface)
        });
        for index in switches.map(|(index, _)| *index).collect::<Vec<_>>() {
            self.reconcile(index);
        }
        let mut changed = false;
        for (index, active) in &mut self.active {
            let vantage = active.shown.vantage;
            let config = InterfaceConfig {
                vantage: vantage as u8,
                ..self.describe.describe(&active.shown.interface, vantage)
            };
            if config == active.config {
                continue;
            }
            match self.table.set(*index, config) {
                Ok(()) => {
                    active.config = config;
                    changed = true;
                }
                Err(error) => {
                    let interface = &active.shown.interface.name;
                    tracing::error!(interface, %error, "the agent could not write the owner of this interface to the kernel's map");
                }
            }
        }
        if changed {
            (self.on_event)(Event::Described);
        }
    }
}
