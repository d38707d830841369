//! What the hotplug thread tells.

use lpm_common::layout::Vantage;

use super::{
    attach::{AttachError, Other},
    blind::Blind,
    bpf::Direction,
    hotplug::AttachedInterface,
    interfaces::Interface,
};

/// What happened to an interface. Handed over in the thread that did it, in order.
#[derive(Debug)]
pub enum Event {
    /// Both programs are attached.
    Attached(AttachedInterface),
    /// The interface has another name now; nothing else changed.
    Renamed {
        /// With the new name.
        interface: AttachedInterface,
        /// The name before.
        old: String,
    },
    /// Both programs are off. **Forget the interface's flows before returning:** the next
    /// interface may get the same index.
    Detached {
        /// As it was.
        interface: AttachedInterface,
        /// The interface itself is gone (removed, or in another namespace now).
        gone: bool,
    },
    /// Neither program is attached though they should be.
    Failed {
        /// The interface.
        interface: Interface,
        /// As what it should be watched.
        vantage: Vantage,
        /// Why not.
        error: AttachError,
        /// It will be tried again.
        retry: bool,
    },
    /// Somebody's programs had come before ours; ours was put in front again.
    Overtaken {
        /// The interface's name.
        interface: String,
        /// At which hook.
        direction: Direction,
        /// Whose.
        others: Vec<Other>,
    },
    /// An interface whose programs could not be attached is gone, or not to be watched any more.
    GivenUp {
        /// Its number.
        index: u32,
    },
    /// It has been found that packets of an interface do not reach our programs, or (`None`) that
    /// they do again.
    Blind {
        /// As it is.
        interface: AttachedInterface,
        /// What is wrong.
        blind: Option<Blind>,
    },
    /// It has been found that the interface carries one direction only, or that it does not any
    /// more. A pod's is detached and attached next, as another vantage.
    OneSided {
        /// As it is.
        interface: AttachedInterface,
        /// One direction only.
        one_sided: bool,
    },
    /// Hooks of the agent before this one go on with this one's programs.
    Adopted {
        /// How many interfaces they are on.
        interfaces: usize,
    },
    /// An interface that the agent before this one watched is not there any more, or not watched.
    /// **Forget its flows before returning**, as with [`Event::Detached`].
    Abandoned {
        /// Its number.
        index: u32,
    },
    /// Filters that an agent left which is gone were removed.
    LeftoversRemoved {
        /// The interface's name.
        interface: String,
        /// How many.
        filters: usize,
    },
    /// Interfaces are described differently in the kernel now: flows are to be named anew.
    Described,
    /// The kernel dropped messages; the interfaces were listed anew.
    Resynced,
}
