//! What this process may do, and what it lacks.

use std::fmt;

use caps::{CapSet, Capability};
use serde::Serialize;

/// A capability that something of ours cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Need {
    /// Its name, as in capabilities(7).
    pub capability: &'static str,
    /// What for.
    pub purpose: &'static str,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.capability, self.purpose)
    }
}

/// A need, what meets it, and what grants it besides that.
type Granted = (Need, Capability, Option<Capability>);

/// To measure.
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

/// To take away what agents that are gone left.
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

/// The capabilities in force, by name, sorted; empty if the kernel does not say.
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

/// What this thread lacks to load and attach programs.
#[must_use]
pub fn missing() -> Vec<Need> {
    let held = caps::read(None, CapSet::Effective).unwrap_or_default();
    missing_of(&NEEDS, |capability| held.contains(&capability))
}

/// What this thread lacks for `lpm detach`.
#[must_use]
pub fn missing_to_detach() -> Vec<Need> {
    let held = caps::read(None, CapSet::Effective).unwrap_or_default();
    missing_of(&NEEDS_TO_DETACH, |capability| held.contains(&capability))
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
