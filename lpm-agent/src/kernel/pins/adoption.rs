//! The hooks of a gone agent, as a directory of pins holds them for adoption.

use std::{ffi::OsString, io, os::fd::OwnedFd, sync::Arc};

use super::{
    super::bpf::{self, Direction, LinkPlace},
    PinError,
    directory::{Directory, Pin},
};

/// Subdirectory of the links.
pub(crate) const LINKS: &str = "links";

/// Subdirectory of the programs that are attached by filters.
pub(super) const PROGRAMS: &str = "programs";

/// One of the hooks of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Slot {
    Ingress,
    Egress,
    /// The second hook at the ingress, while the vantage `node` is in use.
    Joined,
    XdpNative,
    XdpGeneric,
}

impl Slot {
    const ALL: [Self; 5] = [
        Self::Ingress,
        Self::Egress,
        Self::Joined,
        Self::XdpNative,
        Self::XdpGeneric,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
            Self::Joined => "joined",
            Self::XdpNative => "xdp-native",
            Self::XdpGeneric => "xdp-generic",
        }
    }

    /// File name of a link's pin.
    pub(super) fn file(self, interface: u32) -> String {
        format!("{interface}-{}", self.as_str())
    }

    /// Direction of the hook.
    pub(crate) fn direction(self) -> Direction {
        match self {
            Self::Egress => Direction::Egress,
            _ => Direction::Ingress,
        }
    }

    fn parse(file: &str) -> Option<(u32, Self)> {
        let (interface, slot) = file.split_once('-')?;
        let slot = Self::ALL.into_iter().find(|known| known.as_str() == slot)?;
        Some((interface.parse().ok()?, slot))
    }

    fn place(self, interface: u32) -> LinkPlace {
        match self {
            Self::Ingress | Self::Joined => LinkPlace::Tcx(interface, Direction::Ingress),
            Self::Egress => LinkPlace::Tcx(interface, Direction::Egress),
            Self::XdpNative | Self::XdpGeneric => LinkPlace::Xdp(interface),
        }
    }
}

/// A link that is pinned.
#[derive(Debug)]
pub(crate) struct PinnedLink {
    pub(crate) interface: u32,
    pub(crate) slot: Slot,
    pub(crate) fd: OwnedFd,
    pub(crate) pin: Pin,
    /// True: the link is still on that interface.
    pub(crate) alive: bool,
}

impl PinnedLink {
    /// Removes the pin and the link. Closing the last descriptor detaches the program.
    pub(crate) fn remove(self) {
        self.pin.remove();
    }
}

/// The hooks that are pinned in a directory.
#[derive(Debug, Default)]
pub(crate) struct Adoption {
    pub(crate) links: Vec<PinnedLink>,
    /// Programs that filters run: kernel ids and pins.
    pub(crate) programs: Vec<(u32, Pin)>,
}

impl Adoption {
    /// Reads the directory of a layout. Files whose names are not ours are left out.
    pub(super) fn read(directory: &Directory) -> Result<Self, PinError> {
        let mut found = Self::default();
        for pin in pins(directory, LINKS)? {
            let Some((interface, slot)) = pin.name.to_str().and_then(Slot::parse) else {
                continue;
            };
            let failed = |what| failed(&pin, what);
            let fd = pin.directory.open_pin(&pin.name);
            let fd = fd.map_err(failed("open the pinned link"))?;
            let place = bpf::link_place(&fd).map_err(failed("look at the pinned link"))?;
            // A pin of another object under such a name is not ours to take.
            if place == LinkPlace::Other {
                continue;
            }
            found.links.push(PinnedLink {
                alive: place == slot.place(interface),
                interface,
                slot,
                fd,
                pin,
            });
        }
        for pin in pins(directory, PROGRAMS)? {
            let failed = |what| failed(&pin, what);
            let fd = pin.directory.open_pin(&pin.name);
            let fd = fd.map_err(failed("open the pinned program"))?;
            let id = bpf::program_id(&fd).map_err(failed("look at the pinned program"))?;
            found.programs.push((id, pin));
        }
        Ok(found)
    }

    /// Removes the pins of links whose interface has gone.
    pub(crate) fn remove_dead(&mut self) {
        let dead = self.links.extract_if(.., |link| !link.alive);
        dead.for_each(PinnedLink::remove);
    }

    /// Takes out the link of a hook. None: the hook has no link.
    pub(crate) fn take(&mut self, interface: u32, slot: Slot) -> Option<PinnedLink> {
        let at = self
            .links
            .iter()
            .position(|link| (link.interface, link.slot) == (interface, slot))?;
        Some(self.links.swap_remove(at))
    }

    /// True if a program with this kernel id is among those of filters.
    pub(crate) fn has_program(&self, id: Option<u32>) -> bool {
        self.programs.iter().any(|(known, _)| Some(*known) == id)
    }
}

/// Says which call on a pin failed.
fn failed(pin: &Pin, what: &'static str) -> impl Fn(io::Error) -> PinError {
    let path = pin.to_string();
    move |source| PinError::call(what, &path, source)
}

/// The pins in a directory below a layout's. None, if that does not exist.
fn pins(layout: &Directory, part: &str) -> Result<Vec<Pin>, PinError> {
    let Some(directory) = layout.below(part)?.map(Arc::new) else {
        return Ok(Vec::new());
    };
    let pin = |name: OsString| Pin {
        directory: Arc::clone(&directory),
        name,
    };
    Ok(directory.pins()?.into_iter().map(pin).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_links_are_read_back() {
        for slot in Slot::ALL {
            assert_eq!(Slot::parse(&slot.file(4711)), Some((4711, slot)));
        }
        for other in ["", "1", "x-ingress", "1-in", "1-xdp"] {
            assert_eq!(Slot::parse(other), None, "{other}");
        }
    }
}
