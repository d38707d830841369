//! Rights: those that this process has, those that it lacks, and those that an agent gives up.

mod files;
mod reduce;
mod syscalls;

use std::fmt;

use caps::{CapSet, Capability};
pub use files::is_there as has_landlock;
pub use reduce::{Keep, Needs, ReduceError, Reduced, reduce};
use serde::Serialize;

/// A capability that LPM needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Need {
    /// Name of the capability, as in capabilities(7).
    pub capability: &'static str,
    /// Purpose of the capability.
    pub purpose: &'static str,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.capability, self.purpose)
    }
}

/// A need, the capability that meets it, and another that grants it too.
type Granted = (Need, Capability, Option<Capability>);

/// Needs of measuring.
const NEEDS: [Granted; 3] = [
    (
        Need {
            capability: "CAP_BPF",
            purpose: "load programs and make maps",
        },
        Capability::CAP_BPF,
        Some(Capability::CAP_SYS_ADMIN),
    ),
    (
        Need {
            capability: "CAP_PERFMON",
            purpose: "let the programs read packets freely",
        },
        Capability::CAP_PERFMON,
        Some(Capability::CAP_SYS_ADMIN),
    ),
    (
        Need {
            capability: "CAP_NET_ADMIN",
            purpose: "attach programs to interfaces",
        },
        Capability::CAP_NET_ADMIN,
        None,
    ),
];

/// Needs of `lpm detach`.
const NEEDS_TO_DETACH: [Granted; 2] = [
    (
        Need {
            capability: "CAP_SYS_ADMIN",
            purpose: "find out who owns the program on a hook",
        },
        Capability::CAP_SYS_ADMIN,
        None,
    ),
    (
        Need {
            capability: "CAP_NET_ADMIN",
            purpose: "remove filters",
        },
        Capability::CAP_NET_ADMIN,
        None,
    ),
];

/// Names of the effective capabilities, sorted. Empty if the kernel does not say.
#[must_use]
pub fn effective() -> Vec<String> {
    let mut names: Vec<String> = caps::read(None, CapSet::Effective)
        .unwrap_or_default()
        .iter()
        .map(ToString::to_string)
        .collect();
    names.sort_unstable();
    names
}

/// The needs of measuring that this thread lacks.
#[must_use]
pub fn missing() -> Vec<Need> {
    let held = caps::read(None, CapSet::Effective).unwrap_or_default();
    missing_of(&NEEDS, |capability| held.contains(&capability))
}

/// The needs of `lpm detach` that this thread lacks.
#[must_use]
pub fn missing_to_detach() -> Vec<Need> {
    let held = caps::read(None, CapSet::Effective).unwrap_or_default();
    missing_of(&NEEDS_TO_DETACH, |capability| held.contains(&capability))
}

/// True if this thread may look at the descriptors of processes of all users.
#[must_use]
pub fn sees_other_processes() -> bool {
    let held = caps::read(None, CapSet::Effective).unwrap_or_default();
    held.contains(&Capability::CAP_SYS_PTRACE)
}

fn missing_of(needs: &[Granted], holds: impl Fn(Capability) -> bool) -> Vec<Need> {
    needs
        .iter()
        .copied()
        .filter(|(_, capability, instead)| !holds(*capability) && !instead.is_some_and(&holds))
        .map(|(need, _, _)| need)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(held: &[Capability]) -> Vec<&'static str> {
        missing_of(&NEEDS, |capability| held.contains(&capability))
            .into_iter()
            .map(|need| need.capability)
            .collect()
    }

    #[test]
    fn what_is_missing() {
        use Capability::{CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, CAP_SYS_ADMIN};
        assert_eq!(names(&[]), ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"]);
        assert_eq!(names(&[CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN]), [""; 0]);
        // Before 5.8 there was only CAP_SYS_ADMIN, and it still grants both.
        assert_eq!(names(&[CAP_SYS_ADMIN, CAP_NET_ADMIN]), [""; 0]);
        assert_eq!(names(&[CAP_SYS_ADMIN]), ["CAP_NET_ADMIN"]);
        assert_eq!(names(&[CAP_BPF, CAP_NET_ADMIN]), ["CAP_PERFMON"]);
    }
}
