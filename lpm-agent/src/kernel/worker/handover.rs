//! The handover from one agent to the next, over pins: see [`crate::kernel::pins`].

use std::{collections::BTreeSet, ffi::OsStr};

use lpm_common::layout::Vantage;

use super::{
    super::{
        attach::Attacher,
        bpf::Direction,
        hotplug::{Event, StartError},
        pins::{PinError, Pins},
    },
    Worker,
};

/// Interfaces that the last agent watched.
pub(super) struct Before {
    /// Interfaces with settings in the kernel.
    watched: Vec<u32>,
    /// Interfaces, of these and others, that still have a hook.
    hooked: BTreeSet<u32>,
}

impl Worker {
    /// Reads what the last agent left, before anything is attached.
    pub(super) fn inherit(&mut self) -> Result<Before, StartError> {
        let settings = self.table.all();
        let mut hooked = BTreeSet::new();
        if let Some(pins) = &self.attacher.pins {
            self.attacher.inherited = pins.inheritance()?;
            // From here on it must be known which filters are this agent's.
            if self.attacher.mode == super::super::attach::Mode::Netlink {
                pins.pin_programs(self.attacher.programs.iter())?;
            }
            // It happens now, because the next interface with that index has its pin under the same
            // name.
            self.attacher.inherited.remove_dead();
            let links = self.attacher.inherited.links.iter();
            hooked.extend(links.map(|link| link.interface));
        }
        for index in self.known.keys().copied().collect::<Vec<_>>() {
            if has_filters(&mut self.attacher, index) {
                hooked.insert(index);
            }
        }
        let mut watched = Vec::new();
        for (index, vantage) in settings {
            watched.push(index);
            if !hooked.contains(&index) || !self.known.contains_key(&index) {
                // The interface has gone, and another may have its index.
                self.abandon(index);
            } else if vantage == Some(Vantage::Node) {
                self.judge.resume(index);
            }
        }
        Ok(Before { watched, hooked })
    }

    /// Removes what is left of the last agent, now that this agent's programs are in place.
    pub(super) fn release(&mut self, before: &Before) {
        let Some(pins) = self.attacher.pins.clone() else {
            return;
        };
        let interfaces: Vec<u32> = self.known.keys().copied().collect();
        self.attacher.release_inherited(interfaces.iter().copied());
        for index in &before.watched {
            if before.hooked.contains(index) && !self.active.contains_key(index) {
                self.abandon(*index);
            }
        }
        let adopted = before.hooked.iter();
        let adopted = adopted.filter(|index| self.active.contains_key(index));
        let interfaces_adopted = adopted.count();
        if interfaces_adopted > 0 {
            (self.on_event)(Event::Adopted {
                interfaces: interfaces_adopted,
            });
        }
        let others = pins.others().and_then(|others| {
            others
                .iter()
                .try_for_each(|other| self.take_down(&pins, other, &interfaces))
        });
        if let Err(error) = others {
            tracing::error!("the agent could not remove the pins of another version: {error}");
        }
        // What is attached now outlives this agent, however it ends.
        pins.keep(true);
    }

    /// Drops the settings and flows of an interface that is not watched any more.
    fn abandon(&mut self, index: u32) {
        self.forget(index);
        (self.on_event)(Event::Abandoned { index });
    }

    /// Removes the pins of another layout: of an older or newer agent, or of one with other sizes.
    fn take_down(
        &mut self,
        pins: &Pins,
        other: &OsStr,
        interfaces: &[u32],
    ) -> Result<(), PinError> {
        self.attacher.inherited = pins.inheritance_of(other)?;
        self.attacher.release_inherited(interfaces.iter().copied());
        let removed = pins.dismantle(other)?;
        tracing::info!(directory = %other.display(), pins = removed.len(), "took over from an agent with another map layout, and removed its pins");
        Ok(())
    }
}

fn has_filters(attacher: &mut Attacher, index: u32) -> bool {
    [Direction::Ingress, Direction::Egress]
        .into_iter()
        .any(|direction| {
            attacher
                .inherited_filters(index, direction)
                .is_ok_and(|filters| !filters.is_empty())
        })
}
