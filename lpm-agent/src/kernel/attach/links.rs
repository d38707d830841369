//! Attaching by links, TCX and XDP: new ones, and those of the last agent.

use std::{os::fd::OwnedFd, sync::Arc};

use lpm_common::layout::Vantage;

use super::{
    super::{
        attach_error::AttachError,
        bpf,
        interfaces::Interface,
        load::{LoadedProgram, Programs},
        pins::{Pin, PinnedLink, Pins, Slot},
        rules::Extras,
        xdp::{self, XdpMode},
    },
    Attacher, Hook, On, gone, is_gone,
};

impl Attacher {
    pub(super) fn hook_tcx(
        &mut self,
        interface: &Interface,
        slot: Slot,
        program: &LoadedProgram,
    ) -> Result<Hook, AttachError> {
        if let Some(link) = self.adopt(interface.index, slot, program) {
            let on = On::Tcx(link.fd, Some(link.pin));
            return Ok(Hook::new(slot, program, on));
        }
        let direction = slot.direction();
        match bpf::tcx_attach_first(program, interface.index, direction) {
            Ok(link) => {
                let pin = self.pin(&link, interface, slot)?;
                Ok(Hook::new(slot, program, On::Tcx(link, pin)))
            }
            Err(source) if is_gone(&source) => Err(gone(interface)),
            Err(source) => Err(AttachError::Tcx {
                program: program.name,
                interface: interface.name.clone(),
                direction,
                source,
            }),
        }
    }

    pub(super) fn hook_xdp(
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
            let on = On::Xdp(link.fd, Some(link.pin));
            return Ok(Hook::new(slot, program, on));
        }
        // An interface has room for one XDP program, so a link of the other mode has to go first.
        for other in [Slot::XdpNative, Slot::XdpGeneric] {
            if let Some(link) = self.inherited.take(interface.index, other) {
                link.remove();
            }
        }
        let link = xdp::attach(program, interface, mode)?;
        let pin = self.pin(&link, interface, slot)?;
        Ok(Hook::new(slot, program, On::Xdp(link, pin)))
    }

    /// Adopts the last agent's link on a hook: from now on it runs this program.
    fn adopt(&mut self, interface: u32, slot: Slot, program: &LoadedProgram) -> Option<PinnedLink> {
        let link = self.inherited.take(interface, slot)?;
        match bpf::link_update(&link.fd, program) {
            Ok(()) => Some(link),
            Err(error) => {
                tracing::warn!(path = %link.pin, %error, "a pinned link cannot be taken over; the agent creates it again");
                link.remove();
                None
            }
        }
    }

    pub(super) fn pin(
        &self,
        link: &OwnedFd,
        interface: &Interface,
        slot: Slot,
    ) -> Result<Option<Pin>, AttachError> {
        let pin = |pins: &Arc<Pins>| pins.pin_link(link, interface.index, slot);
        Ok(self.pins.as_ref().map(pin).transpose()?)
    }
}
