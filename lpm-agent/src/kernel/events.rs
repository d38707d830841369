//! Events that the hotplug thread reports.

use lpm_common::layout::Vantage;

use super::{
    attach::{AttachError, Other},
    blind::Blind,
    bpf::Direction,
    hotplug::AttachedInterface,
    interfaces::Interface,
};

/// An event of an interface. It is handed over in the thread that caused it, in order.
#[derive(Debug)]
pub enum Event {
    /// Both programs are attached.
    Attached(AttachedInterface),
    /// The interface has another name now. Nothing else changed.
    Renamed {
        /// The interface, with the new name.
        interface: AttachedInterface,
        /// The old name.
        old: String,
    },
    /// Both programs are off. **Forget the interface's flows before returning:** the next
    /// interface may get the same index.
    Detached {
        /// The interface as it was attached.
        interface: AttachedInterface,
        /// True: the interface itself is gone (removed, or in another namespace now).
        gone: bool,
    },
    /// Neither program is attached though both should be.
    Failed {
        /// The interface.
        interface: Interface,
        /// Vantage as which the interface should be watched.
        vantage: Vantage,
        /// Reason of the failure.
        error: AttachError,
        /// True: attaching is tried again.
        retry: bool,
    },
    /// Programs of other owners came before ours. Ours was put in front again.
    Overtaken {
        /// Name of the interface.
        interface: String,
        /// The hook.
        direction: Direction,
        /// The programs that came before ours.
        others: Vec<Other>,
    },
    /// A refused interface is gone, or is not to be watched any more.
    GivenUp {
        /// Index of the interface.
        index: u32,
    },
    /// Packets of an interface were found not to reach our programs, or to reach them again.
    Blind {
        /// The interface as it is attached.
        interface: AttachedInterface,
        /// What is wrong. None: the packets reach our programs again.
        blind: Option<Blind>,
    },
    /// An interface was found to carry one direction only, or to carry both again. If packets are
    /// redirected past a pod's interface, or no longer, it is detached next, and attached as
    /// another vantage.
    OneSided {
        /// The interface as it is attached.
        interface: AttachedInterface,
        /// True: one direction only. False: both directions.
        one_sided: bool,
        /// True: the other direction was seen at another interface.
        redirected: bool,
    },
    /// Hooks of the last agent go on with the programs of this one.
    Adopted {
        /// Number of interfaces with adopted hooks.
        interfaces: usize,
    },
    /// An interface that the last agent watched is gone, or is not watched any more. **Forget its
    /// flows before returning**, as with [`Event::Detached`].
    Abandoned {
        /// Index of the interface.
        index: u32,
    },
    /// Filters that a gone agent left were removed.
    LeftoversRemoved {
        /// Name of the interface.
        interface: String,
        /// Number of filters removed.
        filters: usize,
    },
    /// The settings of interfaces in the kernel changed, so flows must be named again.
    Described,
    /// The kernel dropped messages, and the interfaces were listed again.
    Resynced,
}
