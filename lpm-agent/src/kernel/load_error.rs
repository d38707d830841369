//! Why programs could not be loaded, and what to do about it.

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
    /// A setting that makes no sense.
    #[error("{setting} is {value}: {remedy}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// Its value.
        value: u32,
        /// What it may be.
        remedy: &'static str,
    },
    /// Capabilities are missing.
    #[error("this process may not load kernel programs: it lacks {}; run lpm as root, or grant the \
             capabilities (in Kubernetes: securityContext.capabilities.add)", list(.missing))]
    NotPermitted {
        /// Which.
        missing: Vec<Need>,
    },
    /// The kernel or a security module forbids `bpf(2)` though the capabilities are there.
    #[error(
        "this process may not load kernel programs although it has the capabilities ({source}): a \
         seccomp profile, kernel lockdown or a security module forbids bpf(2); `lpm check` shows \
         more"
    )]
    Forbidden {
        /// What aya said.
        source: Box<EbpfError>,
    },
    /// The object did not load.
    #[error("cannot load the kernel programs: {source}{}", no_btf_hint())]
    Object {
        /// What aya said.
        source: Box<EbpfError>,
    },
    /// The verifier, or an earlier step, refused a program.
    #[error("cannot load the kernel program {program}: {}{}", chain(.source), no_btf_hint())]
    Program {
        /// Its name.
        program: String,
        /// What the kernel said, the verifier's log included.
        source: Box<ProgramError>,
    },
    /// The object is not the one this agent was written for.
    #[error(
        "the kernel object has no {what} {name}, so it does not match this agent: run `cargo xtask \
         build` and build lpm again"
    )]
    Missing {
        /// `map` or `program`.
        what: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// A map is of another type than expected.
    #[error(
        "the map {name} of the kernel object is not as expected: {source}; run `cargo xtask build` and build lpm again"
    )]
    MapType {
        /// Its name.
        name: &'static str,
        /// What aya said.
        source: MapError,
    },
    /// The maps could not be pinned, or those of the last agent not be used.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// An array could not be mapped.
    #[error(transparent)]
    Mmap(#[from] MmapError),
    /// A descriptor could not be duplicated.
    #[error("cannot duplicate the descriptor of the program {program}: {source}")]
    Descriptor {
        /// The program.
        program: &'static str,
        /// What the kernel said.
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

/// Said with a failure, because it is the likeliest reason where it holds.
fn no_btf_hint() -> &'static str {
    match Btf::from_sys_fs() {
        Ok(_) => "",
        Err(_) => {
            "; this kernel has no BTF at /sys/kernel/btf/vmlinux: use a kernel with \
             CONFIG_DEBUG_INFO_BTF"
        }
    }
}

/// Whether EPERM or EACCES lies at the bottom of an error.
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
