//! XDP in place of TC, for packets that a network card receives.

use std::{fmt, io, os::fd::OwnedFd};

use lpm_common::layout::Vantage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    attach::AttachError,
    bpf,
    interfaces::{Interface, Layer},
    load::{LoadedProgram, Programs},
    pins::Slot,
    rules::Extras,
};

/// Where the XDP program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// In the driver, before there is an skb; not every driver can.
    Native,
    /// In the kernel's network stack, which works on every interface. Packets that the driver
    /// merged (GRO) count as one packet.
    Generic,
}

impl XdpMode {
    /// The word used in the configuration and in output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    /// The hook's slot in the pins.
    pub(crate) fn slot(self) -> Slot {
        match self {
            Self::Native => Slot::XdpNative,
            Self::Generic => Slot::XdpGeneric,
        }
    }

    /// Attach flags `XDP_FLAGS_DRV_MODE` and `XDP_FLAGS_SKB_MODE` of `linux/if_link.h`.
    fn flags(self) -> u32 {
        match self {
            Self::Native => 1 << 2,
            Self::Generic => 1 << 1,
        }
    }
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why an interface is not watched by XDP though its rule says so.
#[derive(Debug, Error)]
pub enum XdpError {
    /// XDP sees what an interface receives only.
    #[error(
        "`xdp` is only for packets that a network card or a tunnel receives from other machines, \
         but {interface} is watched as {}: use `vantage: nic` or `overlay`, or remove `xdp` from \
         its rule",
        .vantage.as_str()
    )]
    Vantage {
        /// Name of the interface.
        interface: String,
        /// Vantage as which the interface is watched.
        vantage: Vantage,
    },
    /// The program reads Ethernet frames.
    #[error(
        "interface {interface} has no Ethernet header, which `xdp` needs: remove `xdp` from its \
         rule"
    )]
    LinkType {
        /// Name of the interface.
        interface: String,
    },
    /// An interface has room for one XDP program, and somebody has it.
    #[error(
        "{interface} has another XDP program{}, which lpm does not replace: `bpftool net` names \
         it; remove that program, or remove `xdp` from the interface's rule",
        .program.map(|id| format!(" (id {id})")).unwrap_or_default()
    )]
    Taken {
        /// Name of the interface.
        interface: String,
        /// The kernel's id of that program. None: it is not known.
        program: Option<u32>,
    },
    /// The kernel or the driver refused.
    #[error("cannot attach XDP ({mode}) to {interface}: {source}; {}", remedy(.source, *.mode))]
    Refused {
        /// Name of the interface.
        interface: String,
        /// XDP mode that was tried.
        mode: XdpMode,
        /// The kernel's error.
        source: io::Error,
    },
}

impl XdpError {
    /// True if another attempt may succeed.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Self::Taken { .. } | Self::Refused { .. })
    }
}

fn remedy(error: &io::Error, mode: XdpMode) -> &'static str {
    match (error.raw_os_error(), mode) {
        (Some(libc::EPERM | libc::EACCES), _) => {
            "it needs CAP_NET_ADMIN (and CAP_BPF): run as root or grant them"
        }
        (Some(libc::EOPNOTSUPP | libc::ERANGE | libc::EINVAL), XdpMode::Native) => {
            "the driver does not support XDP, or not with this MTU or these offloads: use `xdp: \
             generic`, or remove `xdp` from the rule to use TC"
        }
        (Some(libc::EINVAL), _) => {
            "XDP links need Linux 5.9 or later: remove `xdp` from the rule to use TC"
        }
        _ => "remove `xdp` from the rule to use TC",
    }
}

/// The program for an interface's XDP hook.
pub(crate) fn program<'p>(
    programs: &'p Programs,
    interface: &Interface,
    vantage: Vantage,
    extras: Extras,
) -> Result<&'p LoadedProgram, AttachError> {
    let name = || interface.name.clone();
    if !matches!(vantage, Vantage::Nic | Vantage::Overlay) {
        let interface = name();
        return Err(XdpError::Vantage { interface, vantage }.into());
    }
    if interface.layer() != Some(Layer::Ethernet) {
        return Err(XdpError::LinkType { interface: name() }.into());
    }
    programs
        .xdp(extras.inner)
        .ok_or_else(|| AttachError::NotLoaded {
            interface: name(),
            key: "xdp",
        })
}

/// Attaches the program. Closing the returned link detaches it, unless it is pinned.
pub(crate) fn attach(
    program: &LoadedProgram,
    interface: &Interface,
    mode: XdpMode,
) -> Result<OwnedFd, AttachError> {
    let name = || interface.name.clone();
    bpf::xdp_attach(program, interface.index, mode.flags()).map_err(|source| {
        let interface = match source.raw_os_error() {
            Some(libc::ENODEV) => return AttachError::Gone { interface: name() },
            Some(libc::EBUSY | libc::EEXIST) => {
                return XdpError::Taken {
                    interface: name(),
                    program: interface.xdp,
                }
                .into();
            }
            _ => name(),
        };
        XdpError::Refused {
            interface,
            mode,
            source,
        }
        .into()
    })
}
