//! Two programs onto an interface, both or none; and off again, ours only.

use std::{io, os::fd::OwnedFd, path::PathBuf, sync::Arc};

use aya::util::KernelVersion;
use lpm_common::layout::Vantage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::attach_error::AttachError;
use super::{
    bpf::{self, Direction},
    interfaces::{Interface, Layer},
    load::{LoadedProgram, Programs, is_joined},
    netlink::Route,
    ours::{FIRST_HANDLE, FIRST_KEPT_HANDLE, HANDLES, Owner, owner},
    pins::{self, Inheritance, PinnedLink, Pins, Slot},
    presence,
    rules::Extras,
    tc::{self, Filter, Place},
    xdp::{self, XdpMode},
};

/// How programs are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// TCX where the kernel has it (6.6), else netlink.
    #[default]
    Auto,
    /// TCX links at the head of the chain; gone with the process.
    Tcx,
    /// Filters of a clsact qdisc, as before 6.6.
    Netlink,
}

impl Mode {
    /// What `Auto` means on this kernel.
    #[must_use]
    pub fn resolve(self) -> Self {
        match self {
            Self::Auto if kernel_at_least(6, 6) => Self::Tcx,
            Self::Auto => Self::Netlink,
            fixed => fixed,
        }
    }

    /// The word used in the configuration and in output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Tcx => "tcx",
            Self::Netlink => "netlink",
        }
    }
}

/// Whether this kernel is of that release or a newer one; false if it does not tell.
pub(crate) fn kernel_at_least(major: u8, minor: u8) -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(major, minor, 0))
}

/// Both programs of one interface.
#[derive(Debug)]
pub(crate) struct Attachment {
    hooks: Vec<Hook>,
    /// The third one, while hooks are joined.
    joined: Option<Hook>,
    /// For people, if something is other than usual: another priority than 1.
    pub(crate) note: Option<String>,
}

/// One program on one hook.
#[derive(Debug)]
enum Hook {
    /// Closing it detaches the program, unless it is pinned: then both.
    Tcx(OwnedFd, Option<PathBuf>),
    /// Likewise.
    Xdp(OwnedFd, Option<PathBuf>),
    /// Stays until it is deleted.
    Filter { place: Place, program: u32 },
}

/// Attaches and detaches in the network namespace of the thread that made it.
#[derive(Debug)]
pub(crate) struct Attacher {
    pub(crate) route: Route,
    pub(crate) programs: Arc<Programs>,
    /// Never `Auto`.
    pub(crate) mode: Mode,
    /// Keeps what is attached beyond the agent's end.
    pub(crate) pins: Option<Arc<Pins>>,
    /// What the agent before this one left and this one has not taken yet.
    pub(crate) inherited: Inheritance,
}

impl Attacher {
    pub(crate) fn new(
        programs: Arc<Programs>,
        mode: Mode,
        pins: Option<Arc<Pins>>,
    ) -> io::Result<Self> {
        Ok(Self {
            route: Route::open()?,
            programs,
            mode: mode.resolve(),
            pins,
            inherited: Inheritance::default(),
        })
    }

    /// Attaches both programs, or none.
    pub(crate) fn attach(
        &mut self,
        interface: &Interface,
        vantage: Vantage,
        extras: Extras,
    ) -> Result<Attachment, AttachError> {
        let layer = interface.layer();
        let joinable = vantage != Vantage::Node || layer == Some(Layer::Ethernet);
        let Some(layer) = layer.filter(|_| joinable) else {
            return Err(AttachError::LinkType {
                interface: interface.name.clone(),
                link_type: interface.link_type,
            });
        };
        let programs = Arc::clone(&self.programs);
        let (from, to) = if extras.inner {
            inner_programs(&programs, interface, layer)?
        } else {
            (programs.from_local(layer), programs.to_local(layer))
        };
        let (ingress, egress) = match vantage {
            Vantage::Node => (programs.node_from(), programs.node_out()),
            _ if vantage.ingress_is_from_local() => (from, to),
            _ => (to, from),
        };
        if self.mode == Mode::Netlink
            && let Err(source) = tc::ensure_clsact(&mut self.route, interface.index)
        {
            let interface = interface.name.clone();
            return Err(if is_gone(&source) {
                AttachError::Gone { interface }
            } else {
                AttachError::Clsact { interface, source }
            });
        }
        let mut attachment = Attachment {
            hooks: Vec::new(),
            joined: None,
            note: None,
        };
        if let Some(mode) = extras.xdp {
            let hook = self.hook_xdp(&programs, interface, vantage, extras, mode)?;
            attachment.hooks.push(hook);
        }
        let by_tc = [(Direction::Ingress, ingress), (Direction::Egress, egress)];
        for (direction, program) in by_tc.into_iter().skip(usize::from(extras.xdp.is_some())) {
            let slot = match direction {
                Direction::Ingress => Slot::Ingress,
                Direction::Egress => Slot::Egress,
            };
            match self.hook(interface, slot, program, &mut attachment) {
                Ok(hook) => attachment.hooks.push(hook),
                Err(error) => {
                    self.detach(interface, attachment);
                    return Err(error);
                }
            }
        }
        Ok(attachment)
    }

    /// Adds the program for packets that may go to a pod past whose veth the CNI redirects.
    pub(crate) fn join(
        &mut self,
        interface: &Interface,
        attachment: &mut Attachment,
    ) -> Result<(), AttachError> {
        if let (None, Some(layer)) = (&attachment.joined, interface.layer()) {
            let programs = Arc::clone(&self.programs);
            let program = programs.node_to(layer);
            let hook = self.hook(interface, Slot::Joined, program, attachment)?;
            attachment.joined = Some(hook);
        }
        Ok(())
    }

    /// Takes it off again.
    pub(crate) fn part(&mut self, interface: &Interface, attachment: &mut Attachment) {
        if let Some(hook) = attachment.joined.take() {
            self.unhook(interface, &hook);
        }
    }

    fn hook(
        &mut self,
        interface: &Interface,
        slot: Slot,
        program: &LoadedProgram,
        attachment: &mut Attachment,
    ) -> Result<Hook, AttachError> {
        match self.mode {
            Mode::Netlink => self.hook_filter(interface, slot, program, attachment),
            Mode::Tcx | Mode::Auto => self.hook_tcx(interface, slot, program),
        }
    }

    fn hook_tcx(
        &mut self,
        interface: &Interface,
        slot: Slot,
        program: &LoadedProgram,
    ) -> Result<Hook, AttachError> {
        if let Some(link) = self.adopt(interface.index, slot, program) {
            return Ok(Hook::Tcx(link.fd, Some(link.path)));
        }
        let direction = slot.direction();
        match bpf::tcx_attach_first(program, interface.index, direction) {
            Ok(link) => {
                let pin = self.pin(&link, interface, slot)?;
                Ok(Hook::Tcx(link, pin))
            }
            Err(source) if is_gone(&source) => Err(AttachError::Gone {
                interface: interface.name.clone(),
            }),
            Err(source) => Err(AttachError::Tcx {
                program: program.name,
                interface: interface.name.clone(),
                direction,
                source,
            }),
        }
    }

    fn hook_xdp(
        &mut self,
        programs: &Programs,
        interface: &Interface,
        vantage: Vantage,
        extras: Extras,
        mode: XdpMode,
    ) -> Result<Hook, AttachError> {
        let program = xdp::program(programs, interface, vantage, extras)?;
        let slot = mode.slot();
        if let Some(link) = self.adopt(interface.index, slot, program) {
            return Ok(Hook::Xdp(link.fd, Some(link.path)));
        }
        // There is room for one: that of the other kind has to go first.
        for other in [Slot::XdpNative, Slot::XdpGeneric] {
            if let Some(link) = self.inherited.take(interface.index, other) {
                link.remove();
            }
        }
        let link = xdp::attach(program, interface, mode)?;
        let pin = self.pin(&link, interface, slot)?;
        Ok(Hook::Xdp(link, pin))
    }

    /// The predecessor's link on a hook, with this program in it from now on.
    fn adopt(&mut self, interface: u32, slot: Slot, program: &LoadedProgram) -> Option<PinnedLink> {
        let link = self.inherited.take(interface, slot)?;
        match bpf::link_update(&link.fd, program) {
            Ok(()) => Some(link),
            Err(error) => {
                tracing::warn!(path = %link.path.display(), %error, "a pinned link cannot be taken over; it is made anew");
                link.remove();
                None
            }
        }
    }

    fn pin(
        &self,
        link: &OwnedFd,
        interface: &Interface,
        slot: Slot,
    ) -> Result<Option<PathBuf>, AttachError> {
        let pin = |pins: &Arc<Pins>| pins.pin_link(link, interface.index, slot);
        Ok(self.pins.as_ref().map(pin).transpose()?)
    }

    /// Takes both programs off; whatever else is on the hooks stays.
    pub(crate) fn detach(&mut self, interface: &Interface, attachment: Attachment) {
        // A TCX link goes when it is dropped.
        for hook in attachment.hooks.into_iter().chain(attachment.joined) {
            self.unhook(interface, &hook);
        }
    }

    fn unhook(&mut self, interface: &Interface, hook: &Hook) {
        let (place, program) = match hook {
            // Closed by the caller.
            Hook::Tcx(_, pin) | Hook::Xdp(_, pin) => {
                if let Some(path) = pin {
                    pins::remove(path);
                }
                return;
            }
            Hook::Filter { place, program } => (*place, *program),
        };
        match self.our_filter(place, program) {
            Ok(Some(filter)) => {
                if let Err(error) = tc::delete(&mut self.route, &filter)
                    && !is_gone(&error)
                {
                    tracing::error!(interface = interface.name, direction = %place.direction, %error, "a filter of ours could not be deleted; run `lpm detach`");
                }
            }
            // Deleted or replaced by somebody else, or gone with the interface.
            Ok(None) => {}
            Err(error) if is_gone(&error) => {}
            Err(error) => {
                tracing::error!(interface = interface.name, direction = %place.direction, %error, "the filters could not be listed; run `lpm detach`");
            }
        }
    }

    /// Whether both programs are where they were put.
    pub(crate) fn is_intact(&mut self, interface: u32, attachment: &Attachment) -> bool {
        let mut hooks = attachment.hooks.iter().chain(&attachment.joined);
        hooks.all(|hook| match hook {
            Hook::Tcx(link, _) => {
                bpf::tcx_link_interface(link).is_ok_and(|found| found == interface)
            }
            Hook::Xdp(link, _) => {
                bpf::xdp_link_interface(link).is_ok_and(|found| found == interface)
            }
            Hook::Filter { place, program } => {
                matches!(self.our_filter(*place, *program), Ok(Some(_)))
            }
        })
    }

    fn our_filter(&mut self, place: Place, program: u32) -> io::Result<Option<Filter>> {
        let filters = tc::filters(&mut self.route, place.interface, place.direction)?;
        Ok(filters.into_iter().find(|filter| {
            (filter.priority, filter.handle) == (place.priority, place.handle)
                && filter.program == Some(program)
        }))
    }

    fn hook_filter(
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
            let from = (priority + 1, first_handle);
            let Some(place) = free_place(interface.index, direction, &filters, from) else {
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
                            "priority 1 belongs to another kind of filter; ours is at {priority}"
                        ));
                    }
                    return Ok(Hook::Filter {
                        place,
                        program: program.id,
                    });
                }
                // Somebody was faster, or a filter that we cannot read is in the way.
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EEXIST | libc::EINVAL))
                        && priority < PRIORITIES => {}
                Err(error) if is_gone(&error) => return Err(gone(interface)),
                Err(error) => return Err(refused(priority, error)),
            }
        }
    }

    fn first_handle(&self) -> u32 {
        if self.pins.is_some() {
            FIRST_KEPT_HANDLE
        } else {
            FIRST_HANDLE
        }
    }

    /// Filters of the agent before this one on a hook that this one has not taken.
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

    /// The predecessor's filter on a hook, with this program in it from now on.
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
        let program = program.id;
        Ok(Some(Hook::Filter { place, program }))
    }

    /// Takes off what the agent before this one left and this one has no use for.
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
                        tracing::error!(interface, %direction, %error, "a filter of the agent before this one could not be deleted; run `lpm detach`");
                    }
                }
            }
        }
        for (_, path) in self.inherited.programs.drain(..) {
            pins::remove(&path);
        }
    }

    /// Deletes what agents that are gone left on a hook. Returns what was deleted.
    pub(crate) fn remove_leftovers(
        &mut self,
        interface: u32,
        direction: Direction,
    ) -> io::Result<Vec<Filter>> {
        let tags: Vec<u64> = self.programs.iter().map(|program| program.tag).collect();
        remove_leftovers(&mut self.route, interface, direction, &tags)
    }
}

/// The filters of a hook could not be listed.
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

fn gone(interface: &Interface) -> AttachError {
    AttachError::Gone {
        interface: interface.name.clone(),
    }
}

/// Deletes what agents that are gone left on a hook; `tags` as for [`owner`].
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
    let agents = presence::running_agents()?;
    for filter in filters {
        if owner(&filter, &agents, tags) == Owner::Leftover {
            tc::delete(route, &filter)?;
            removed.push(filter);
        }
    }
    Ok(removed)
}

/// The programs that look into tunnels.
fn inner_programs<'p>(
    programs: &'p Programs,
    interface: &Interface,
    layer: Layer,
) -> Result<(&'p LoadedProgram, &'p LoadedProgram), AttachError> {
    if layer != Layer::Ethernet {
        return Err(AttachError::InnerLinkType {
            interface: interface.name.clone(),
            link_type: interface.link_type,
        });
    }
    programs.inner().ok_or_else(|| AttachError::NotLoaded {
        interface: interface.name.clone(),
        key: "inner",
    })
}

/// How far we look for a priority that is free.
const PRIORITIES: u16 = 64;

/// The first place from a priority on that takes a filter of ours.
fn free_place(
    interface: u32,
    direction: Direction,
    filters: &[Filter],
    (from, first_handle): (u16, u32),
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

/// Whether the kernel says that there is no such interface.
fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENODEV)
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
            name: None,
            program: None,
            tag: None,
        }
    }

    fn place(filters: &[Filter]) -> Option<(u16, u32)> {
        free_place(2, Direction::Egress, filters, (1, FIRST_HANDLE))
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
