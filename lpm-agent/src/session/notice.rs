//! Notices about interfaces, as people read them.

use std::fmt;

use lpm_common::layout::Vantage;

use crate::kernel::{
    Direction,
    attach::{AttachError, Other},
    blind::Blind,
    hotplug::AttachedInterface,
};

/// An event of an interface that people are told about.
#[derive(Debug)]
pub enum Notice {
    /// An interface is watched.
    Attached(AttachedInterface),
    /// An interface is not watched any more.
    Detached {
        /// Name of the interface.
        interface: String,
        /// The interface itself is gone.
        gone: bool,
    },
    /// An interface should be watched and is not.
    Failed {
        /// Reason of the failure.
        error: AttachError,
        /// True: attaching is tried again.
        retry: bool,
    },
    /// An interface carries one direction only, or carries both again.
    OneSided {
        /// Name of the interface.
        interface: String,
        /// Vantage as which the interface was watched until now.
        vantage: Vantage,
        /// True: one direction only. False: both directions.
        one_sided: bool,
        /// True: the other direction was seen at another interface.
        redirected: bool,
    },
    /// Programs of other owners came before ours. Ours was put in front again.
    Overtaken {
        /// Name of the interface.
        interface: String,
        /// Hook at which it happened.
        direction: Direction,
        /// The programs that came before ours.
        others: Vec<Other>,
    },
    /// Packets of an interface do not reach our programs, or they do again.
    Blind {
        /// Name of the interface.
        interface: String,
        /// What is wrong. None: the packets reach our programs again.
        blind: Option<Blind>,
    },
    /// Hooks that the last agent left measuring go on with the programs of this one.
    Adopted {
        /// Number of interfaces with adopted hooks.
        interfaces: usize,
    },
    /// Filters of an agent that is gone were removed.
    LeftoversRemoved {
        /// Name of the interface.
        interface: String,
        /// Number of filters removed.
        filters: usize,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attached(attached) => attached_text(f, attached),
            Self::Detached {
                interface,
                gone: true,
            } => write!(f, "{interface} is gone"),
            Self::Detached {
                interface,
                gone: false,
            } => write!(f, "detached from {interface}"),
            Self::Failed { error, retry: true } => {
                write!(f, "{error}; the agent will try again")
            }
            Self::Failed {
                error,
                retry: false,
            } => write!(f, "{error}"),
            Self::OneSided {
                interface,
                vantage,
                one_sided,
                redirected,
            } => one_sided_text(f, interface, *vantage, *one_sided, *redirected),
            Self::Overtaken {
                interface,
                direction,
                others,
            } => overtaken_text(f, interface, *direction, others),
            Self::Blind {
                interface,
                blind: Some(blind),
            } => write!(f, "{interface} is not measured as it should be: {blind}"),
            Self::Blind {
                interface,
                blind: None,
            } => write!(f, "{interface} is measured again"),
            Self::Adopted { interfaces } => write!(
                f,
                "took over from the last agent on {interfaces} interface{}",
                if *interfaces == 1 { "" } else { "s" }
            ),
            Self::LeftoversRemoved { interface, filters } => {
                write!(
                    f,
                    "removed {filters} filters from {interface} that an agent left behind"
                )
            }
        }
    }
}

fn attached_text(f: &mut fmt::Formatter<'_>, attached: &AttachedInterface) -> fmt::Result {
    let AttachedInterface {
        interface,
        vantage,
        mode,
        extras,
        note,
        ..
    } = attached;
    let (vantage, mode) = (vantage.as_str(), mode.as_str());
    write!(f, "attached to {} ({vantage}, {mode})", interface.name)?;
    write!(f, "{extras}")?;
    note.iter().try_for_each(|note| write!(f, ": {note}"))
}

fn overtaken_text(
    f: &mut fmt::Formatter<'_>,
    interface: &str,
    direction: Direction,
    others: &[Other],
) -> fmt::Result {
    write!(
        f,
        "{interface}: our program is first at its {direction} again; it now runs before"
    )?;
    for (place, other) in others.iter().enumerate() {
        write!(f, "{} {other}", if place == 0 { "" } else { ";" })?;
    }
    f.write_str(", which still runs")
}

fn one_sided_text(
    f: &mut fmt::Formatter<'_>,
    interface: &str,
    vantage: Vantage,
    one_sided: bool,
    redirected: bool,
) -> fmt::Result {
    match (vantage, one_sided) {
        (Vantage::Pod, true) if !redirected => write!(
            f,
            "{interface} carries one direction only: nothing can be measured there. If the CNI \
             redirects packets past it, watch another interface that they pass, or give this one \
             the vantage node"
        ),
        (Vantage::Pod, true) => write!(
            f,
            "{interface} carries one direction only: the CNI redirects packets past it. Packets to \
             its pod are measured where they enter the node (vantage node)"
        ),
        (_, true) => write!(
            f,
            "{interface} carries one direction only: nothing can be measured there"
        ),
        (_, false) => write!(f, "{interface} carries both directions"),
    }
}
