//! Attaches two programs to an interface, both or none, and detaches ours only.

mod filters;
mod front;
mod links;

use std::{io, os::fd::OwnedFd, sync::Arc};

use aya::util::KernelVersion;
use lpm_common::layout::Vantage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::front::Other;
pub(crate) use self::front::{Harmless, Standing};
pub use super::attach_error::AttachError;
use super::{
    bpf::{self, Direction},
    detour::Detour,
    interfaces::{Interface, Layer},
    load::{LoadedProgram, Programs},
    netlink::Route,
    pins::{Adoption, Pin, Pins, Slot},
    rules::Extras,
    tc::{self, Place},
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
    /// The mode that `Auto` stands for on this kernel.
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

/// True if this kernel is of that release or a newer one. False if the kernel does not tell.
pub(crate) fn kernel_at_least(major: u8, minor: u8) -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(major, minor, 0))
}

/// Both programs of one interface.
#[derive(Debug)]
pub(crate) struct Attachment {
    hooks: Vec<Hook>,
    /// The third hook, while the vantage `node` is in use on any interface.
    joined: Option<Hook>,
    /// A remark for people, if something is unusual: a priority other than 1.
    pub(crate) note: Option<String>,
}

/// One program on one hook.
#[derive(Debug)]
pub(crate) struct Hook {
    pub(crate) slot: Slot,
    /// The kernel's id of our program.
    program: u32,
    on: On,
    /// The program that stands there in place of ours for a while, and calls it.
    detour: Option<Detour>,
}

/// The attachment that holds a program on its hook.
#[derive(Debug)]
enum On {
    /// A TCX link and its pin. Closing the link detaches the program. A pinned link must be
    /// unpinned, too.
    Tcx(OwnedFd, Option<Pin>),
    /// An XDP link and its pin. Closing and unpinning work as with TCX.
    Xdp(OwnedFd, Option<Pin>),
    /// A TC filter at this place. It stays until it is deleted.
    Filter(Place),
}

impl Hook {
    fn new(slot: Slot, program: &LoadedProgram, on: On) -> Self {
        Self {
            slot,
            program: program.id,
            on,
            detour: None,
        }
    }

    /// The kernel's id of the program that is on the hook now: the detour, or ours.
    fn there(&self) -> u32 {
        self.detour
            .as_ref()
            .map_or(self.program, |detour| detour.id)
    }
}

/// Attaches and detaches in the network namespace of the thread that made it.
#[derive(Debug)]
pub(crate) struct Attacher {
    pub(crate) route: Route,
    pub(crate) programs: Arc<Programs>,
    /// The mode in use, never `Auto`.
    pub(crate) mode: Mode,
    /// The pins, if attachments are to outlive the agent.
    pub(crate) pins: Option<Arc<Pins>>,
    /// Attachments that the last agent left and that this one has not adopted yet.
    pub(crate) inherited: Adoption,
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
            inherited: Adoption::default(),
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
            return Err(match source.raw_os_error() {
                Some(libc::ENODEV) => AttachError::Gone { interface },
                Some(libc::EEXIST) => AttachError::IngressQdisc { interface },
                _ => AttachError::Clsact { interface, source },
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

    /// Attaches the third program, for packets that may go to a pod past whose veth the CNI
    /// redirects.
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

    /// Detaches the third program.
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

    /// Detaches both programs. All else on the hooks stays.
    pub(crate) fn detach(&mut self, interface: &Interface, attachment: Attachment) {
        // A TCX link ends when it is dropped.
        for hook in attachment.hooks.into_iter().chain(attachment.joined) {
            self.unhook(interface, &hook);
        }
    }

    fn unhook(&mut self, interface: &Interface, hook: &Hook) {
        let place = match &hook.on {
            // The caller closes the link.
            On::Tcx(_, pin) | On::Xdp(_, pin) => {
                if let Some(pin) = pin {
                    pin.remove();
                }
                return;
            }
            On::Filter(place) => *place,
        };
        match self.our_filter(place, hook.there()) {
            Ok(Some(filter)) => {
                if let Err(error) = tc::delete(&mut self.route, &filter)
                    && !is_gone(&error)
                {
                    tracing::error!(interface = interface.name, direction = %place.direction, %error, "the agent could not delete one of its filters; run `lpm detach`");
                }
            }
            // The filter was deleted or replaced by somebody else, or went with the interface.
            Ok(None) => {}
            Err(error) if is_gone(&error) => {}
            Err(error) => {
                tracing::error!(interface = interface.name, direction = %place.direction, %error, "the agent could not list the filters; run `lpm detach`");
            }
        }
    }

    /// True if all programs are still where they were put.
    pub(crate) fn is_intact(&mut self, interface: u32, attachment: &Attachment) -> bool {
        attachment.hooks().all(|hook| match &hook.on {
            On::Tcx(link, _) => bpf::tcx_link_interface(link).is_ok_and(|found| found == interface),
            On::Xdp(link, _) => bpf::xdp_link_interface(link).is_ok_and(|found| found == interface),
            On::Filter(place) => matches!(self.our_filter(*place, hook.there()), Ok(Some(_))),
        })
    }
}

impl Attachment {
    fn hooks(&self) -> impl Iterator<Item = &Hook> {
        self.hooks.iter().chain(&self.joined)
    }

    /// The hooks of TC and TCX, which others may get in front of.
    pub(crate) fn hooks_mut(&mut self) -> impl Iterator<Item = &mut Hook> {
        let hooks = self.hooks.iter_mut().chain(&mut self.joined);
        hooks.filter(|hook| !matches!(hook.on, On::Xdp(..)))
    }
}

fn gone(interface: &Interface) -> AttachError {
    AttachError::Gone {
        interface: interface.name.clone(),
    }
}

/// The programs for tunnels, for an interface that asks for them.
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

/// True if the kernel's error says that the interface does not exist.
fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENODEV)
}
