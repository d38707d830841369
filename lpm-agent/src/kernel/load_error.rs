//! Errors of loading the programs, with their remedies.

use std::io;

use aya::{Btf, EbpfError, maps::MapError, programs::ProgramError};
use thiserror::Error;

use super::{mmap::MmapError, pins::PinError, privileges::Need};

/// Why the programs could not be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The binary was built without the object.
    #[error(
        "this lpm was built without its kernel programs: run `cargo xtask build`, then build lpm again"
    )]
    NoObject,
    /// A setting has an impossible value.
    #[error("{setting} is {value}: {remedy}")]
    Setting {
        /// Name of the setting.
        setting: &'static str,
        /// Value of the setting.
        value: u32,
        /// The values that are allowed.
        remedy: &'static str,
    },
    /// Capabilities are missing.
    #[error("this process may not load kernel programs: it lacks {}; run lpm as root, or grant the \
             capabilities (in Kubernetes: securityContext.capabilities.add)", list(.missing))]
    NotPermitted {
        /// The missing capabilities.
        missing: Vec<Need>,
    },
    /// The kernel or a security module forbids `bpf(2)` though the capabilities are there.
    #[error(
        "this process may not load kernel programs although it has the capabilities ({source}): a \
         seccomp profile, kernel lockdown or a security module forbids bpf(2); `lpm check` shows \
         more"
    )]
    Forbidden {
        /// The error from aya.
        source: Box<EbpfError>,
    },
    /// The object did not load.
    #[error("cannot load the kernel programs: {source}{}", no_btf_hint())]
    Object {
        /// The error from aya.
        source: Box<EbpfError>,
    },
    /// The verifier, or an earlier step, refused a program.
    #[error("cannot load the kernel program {program}: {}{}", chain(.source), no_btf_hint())]
    Program {
        /// Name of the program.
        program: String,
        /// The kernel's error, with the verifier's log.
        source: Box<ProgramError>,
    },
    /// The object is not the one that this agent was written for.
    #[error(
        "the kernel object has no {what} {name}, so it does not match this agent: run `cargo xtask \
         build` and build lpm again"
    )]
    Missing {
        /// Kind of the missing part: `map` or `program`.
        what: &'static str,
        /// Name of the missing part.
        name: &'static str,
    },
    /// A map is of another type than expected.
    #[error(
        "the map {name} of the kernel object is not as expected: {source}; run `cargo xtask build` and build lpm again"
    )]
    MapType {
        /// Name of the map.
        name: &'static str,
        /// The error from aya.
        source: MapError,
    },
    /// The maps could not be pinned, or those of the last agent cannot be used.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// An array could not be mapped.
    #[error(transparent)]
    Mmap(#[from] MmapError),
    /// A descriptor could not be duplicated.
    #[error("cannot duplicate the descriptor of the program {program}: {source}")]
    Descriptor {
        /// Name of the program.
        program: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
}

fn list(missing: &[Need]) -> String {
    missing
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// A hint for a failure on a kernel without BTF, because it is the likeliest reason there.
fn no_btf_hint() -> &'static str {
    match Btf::from_sys_fs() {
        Ok(_) => "",
        Err(_) => {
            "; this kernel has no BTF at /sys/kernel/btf/vmlinux: use a kernel with \
             CONFIG_DEBUG_INFO_BTF"
        }
    }
}

/// True if EPERM or EACCES lies at the bottom of an error.
pub(super) fn is_permission(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.kind() == io::ErrorKind::PermissionDenied;
        }
        next = error.source();
    }
    false
}
