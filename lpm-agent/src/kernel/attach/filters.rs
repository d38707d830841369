//! Attaching by filters of a clsact qdisc: new ones, those that gone agents left, and those of the
//! last agent.

use std::io;

use super::{
    super::{
        attach_error::AttachError,
        bpf::Direction,
        interfaces::Interface,
        liveness,
        load::{LoadedProgram, is_joined},
        netlink::Route,
        ownership::{FIRST_HANDLE, FIRST_KEPT_HANDLE, HANDLES, Owner, owner},
        pins::Slot,
        tc::{self, Filter, Place},
    },
    Attacher, Attachment, Hook, On, gone, is_gone,
};

impl Attacher {
    pub(super) fn our_filter(&mut self, place: Place, program: u32) -> io::Result<Option<Filter>> {
        let filters = tc::filters(&mut self.route, place.interface, place.direction)?;
        Ok(filters.into_iter().find(|filter| {
            (filter.priority, filter.handle) == (place.priority, place.handle)
                && filter.program == Some(program)
        }))
    }

    pub(super) fn hook_filter(
        &mut self,
        interface: &Interface,
        slot: Slot,
        program: &LoadedProgram,
        attachment: &mut Attachment,
    ) -> Result<Hook, AttachError> {
        let direction = slot.direction();
        let cannot_look = |source| cannot_look(interface, direction, source);
        self.remove_leftovers(interface.index, direction)
            .map_err(cannot_look)?;
        let adopted = self.adopt_filter(interface.index, slot, program);
        if let Some(hook) = adopted.map_err(cannot_look)? {
            return Ok(hook);
        }
        let first_handle = self.first_handle();
        let mut priority = 0;
        loop {
            let filters = tc::filters(&mut self.route, interface.index, direction);
            let filters = filters.map_err(cannot_look)?;
            let refused = |priority, source| AttachError::Filter {
                program: program.name,
                interface: interface.name.clone(),
                direction,
                priority,
                source,
            };
            let from = priority + 1;
            let place = free_place(interface.index, direction, &filters, from, first_handle);
            let Some(place) = place else {
                return Err(refused(
                    priority,
                    io::Error::from_raw_os_error(libc::EEXIST),
                ));
            };
            priority = place.priority;
            match tc::add(&mut self.route, place, program, program.name) {
                Ok(()) => {
                    if priority > 1 {
                        attachment.note = Some(format!(
                            "another kind of filter has priority 1, so our filter has priority \
                             {priority}"
                        ));
                    }
                    return Ok(Hook::new(slot, program, On::Filter(place)));
                }
                // Another program took the place first, or a filter that we cannot read is in the
                // way.
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EEXIST | libc::EINVAL))
                        && priority < PRIORITIES => {}
                Err(error) if is_gone(&error) => return Err(gone(interface)),
                Err(error) => return Err(refused(priority, error)),
            }
        }
    }

    pub(super) fn first_handle(&self) -> u32 {
        if self.pins.is_some() {
            FIRST_KEPT_HANDLE
        } else {
            FIRST_HANDLE
        }
    }

    /// Filters of the last agent on a hook that this agent has not adopted.
    pub(crate) fn inherited_filters(
        &mut self,
        interface: u32,
        direction: Direction,
    ) -> io::Result<Vec<Filter>> {
        if self.inherited.programs.is_empty() {
            return Ok(Vec::new());
        }
        let mut filters = tc::filters(&mut self.route, interface, direction)?;
        filters.retain(|filter| self.inherited.has_program(filter.program));
        Ok(filters)
    }

    /// Adopts the last agent's filter on a hook: from now on it runs this program.
    fn adopt_filter(
        &mut self,
        interface: u32,
        slot: Slot,
        program: &LoadedProgram,
    ) -> io::Result<Option<Hook>> {
        let filters = self.inherited_filters(interface, slot.direction())?;
        let joined = |filter: &Filter| filter.name.as_deref().is_some_and(is_joined);
        let Some(filter) = filters
            .into_iter()
            .find(|filter| joined(filter) == (slot == Slot::Joined))
        else {
            return Ok(None);
        };
        let place = Place {
            interface,
            direction: filter.direction,
            priority: filter.priority,
            handle: filter.handle,
        };
        tc::replace(&mut self.route, place, program, program.name)?;
        Ok(Some(Hook::new(slot, program, On::Filter(place))))
    }

    /// Deletes the last agent's filters that this agent did not adopt.
    pub(crate) fn release_inherited(&mut self, interfaces: impl Iterator<Item = u32>) {
        let mut inherited = std::mem::take(&mut self.inherited);
        for link in inherited.links.drain(..) {
            link.remove();
        }
        self.inherited = inherited;
        for interface in interfaces {
            for direction in [Direction::Ingress, Direction::Egress] {
                let filters = self.inherited_filters(interface, direction);
                for filter in filters.unwrap_or_default() {
                    if let Err(error) = tc::delete(&mut self.route, &filter)
                        && !is_gone(&error)
                    {
                        tracing::error!(interface, %direction, %error, "a filter of the former agent could not be deleted; run `lpm detach`");
                    }
                }
            }
        }
        for (_, pin) in self.inherited.programs.drain(..) {
            pin.remove();
        }
    }

    /// Deletes the filters that gone agents left on a hook. Returns what was deleted.
    pub(crate) fn remove_leftovers(
        &mut self,
        interface: u32,
        direction: Direction,
    ) -> io::Result<Vec<Filter>> {
        let tags: Vec<u64> = self.programs.iter().map(|program| program.tag).collect();
        remove_leftovers(&mut self.route, interface, direction, &tags)
    }
}

/// The error for a hook whose filters could not be listed.
fn cannot_look(interface: &Interface, direction: Direction, source: io::Error) -> AttachError {
    if is_gone(&source) {
        return gone(interface);
    }
    AttachError::Look {
        interface: interface.name.clone(),
        direction,
        source,
    }
}

/// Deletes the filters that gone agents left on a hook. `tags` are as for [`owner`].
pub(crate) fn remove_leftovers(
    route: &mut Route,
    interface: u32,
    direction: Direction,
    tags: &[u64],
) -> io::Result<Vec<Filter>> {
    let mut removed = Vec::new();
    let filters = tc::filters(route, interface, direction)?;
    if filters.is_empty() {
        return Ok(removed);
    }
    let agents = liveness::running_agents()?;
    for filter in filters {
        if owner(&filter, &agents, tags) == Owner::Leftover {
            tc::delete(route, &filter)?;
            removed.push(filter);
        }
    }
    Ok(removed)
}

/// Number of priorities that are tried for a free one.
const PRIORITIES: u16 = 64;

/// The first place, from a priority on, that can take a filter of ours.
pub(super) fn free_place(
    interface: u32,
    direction: Direction,
    filters: &[Filter],
    from: u16,
    first_handle: u32,
) -> Option<Place> {
    (from..=PRIORITIES).find_map(|priority| {
        let there: Vec<&Filter> = filters
            .iter()
            .filter(|filter| filter.priority == priority)
            .collect();
        if !there.iter().all(|filter| filter.shares_priority()) {
            return None;
        }
        (first_handle..first_handle + HANDLES)
            .find(|handle| there.iter().all(|filter| filter.handle != *handle))
            .map(|handle| Place {
                interface,
                direction,
                priority,
                handle,
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(priority: u16, handle: u32, kind: &str, protocol: u16) -> Filter {
        Filter {
            interface: 2,
            direction: Direction::Egress,
            priority,
            protocol: protocol.to_be(),
            handle,
            kind: kind.to_owned(),
            chain: 0,
            name: None,
            program: None,
            tag: None,
        }
    }

    fn place(filters: &[Filter]) -> Option<(u16, u32)> {
        free_place(2, Direction::Egress, filters, 1, FIRST_HANDLE)
            .map(|place| (place.priority, place.handle))
    }

    #[test]
    fn the_place_beside_neighbours() {
        assert_eq!(place(&[]), Some((1, 0x4C50)));
        assert_eq!(
            place(&[filter(1, 1, "bpf", 3)]),
            Some((1, 0x4C50)),
            "shares the priority"
        );
        assert_eq!(place(&[filter(1, 0x4C50, "bpf", 3)]), Some((1, 0x4C51)));
        assert_eq!(
            place(&[filter(1, 0, "u32", 3)]),
            Some((2, 0x4C50)),
            "another kind"
        );
        assert_eq!(
            place(&[filter(1, 1, "bpf", 0x0800)]),
            Some((2, 0x4C50)),
            "another protocol"
        );
        assert_eq!(
            place(&[filter(1, 1, "flower", 3), filter(2, 0x4C50, "bpf", 3)]),
            Some((2, 0x4C51))
        );
        let full: Vec<Filter> = (1..=PRIORITIES).map(|at| filter(at, 1, "u32", 3)).collect();
        assert_eq!(place(&full), None);
    }
}
