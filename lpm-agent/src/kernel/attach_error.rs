//! Errors of attaching, with their remedies.

use std::io;

use thiserror::Error;

use super::{attach::kernel_at_least, bpf::Direction, pins::PinError, xdp::XdpError};

/// Why an interface is not watched though it should be.
#[derive(Debug, Error)]
pub enum AttachError {
    /// The interface vanished in the meantime. Nothing is wrong.
    #[error("interface {interface} is gone")]
    Gone {
        /// Name of the interface.
        interface: String,
    },
    /// The packets of the interface start with a header that the programs cannot read.
    #[error(
        "interface {interface} has link type {link_type} (ARPHRD number), which lpm cannot read: only Ethernet and devices whose packets start with the IP header can be watched; watch the interface above or below it, or exclude it with a rule `vantage: none`"
    )]
    LinkType {
        /// Name of the interface.
        interface: String,
        /// Link type of the interface (`ARPHRD_*`).
        link_type: u16,
    },
    /// A rule asks for programs that were not loaded.
    #[error(
        "interface {interface} needs a program for `{key}`, which the agent did not load when it \
         started: restart the agent"
    )]
    NotLoaded {
        /// Name of the interface.
        interface: String,
        /// The rule's key.
        key: &'static str,
    },
    /// Tunnels are looked into on Ethernet only.
    #[error(
        "interface {interface} has no Ethernet header (link type {link_type}), and `inner: true` \
         reads Ethernet frames only: remove `inner` from the rule"
    )]
    InnerLinkType {
        /// Name of the interface.
        interface: String,
        /// Link type of the interface (`ARPHRD_*`).
        link_type: u16,
    },
    /// The interface cannot be watched by XDP.
    #[error(transparent)]
    Xdp(#[from] XdpError),
    /// The kernel refused a TCX link.
    #[error("cannot attach {program} to the {direction} of {interface} by TCX: {source}; {}", remedy(.source))]
    Tcx {
        /// Name of the program.
        program: &'static str,
        /// Name of the interface.
        interface: String,
        /// The hook.
        direction: Direction,
        /// The kernel's error.
        source: io::Error,
    },
    /// The hook could not be pinned.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// There is no clsact qdisc and none can be added.
    #[error("cannot add a clsact qdisc to {interface}: {source}; {}", remedy(.source))]
    Clsact {
        /// Name of the interface.
        interface: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// Another qdisc takes the only place of clsact.
    #[error(
        "interface {interface} has an `ingress` qdisc instead of clsact, and that has no hook for \
         sent packets (`tc qdisc show dev {interface}`); {}",
        ingress_remedy()
    )]
    IngressQdisc {
        /// Name of the interface.
        interface: String,
    },
    /// The kernel refused a filter.
    #[error("cannot attach {program} to the {direction} of {interface} as a TC filter (priority \
             {priority}): {source}; {}", remedy(.source))]
    Filter {
        /// Name of the program.
        program: &'static str,
        /// Name of the interface.
        interface: String,
        /// The hook.
        direction: Direction,
        /// The priority tried last.
        priority: u16,
        /// The kernel's error.
        source: io::Error,
    },
    /// Filters could not be listed, or one of ours not deleted.
    #[error("cannot read the TC filters on the {direction} of {interface}: {source}")]
    Look {
        /// Name of the interface.
        interface: String,
        /// The hook.
        direction: Direction,
        /// The kernel's error.
        source: io::Error,
    },
}

fn ingress_remedy() -> &'static str {
    if kernel_at_least(6, 6) {
        "attach by TCX, which needs no qdisc (`attach: tcx`), or have the owner of the qdisc use \
         clsact"
    } else {
        "have the owner of the qdisc use clsact, which takes the same filters, or exclude the \
         interface with a rule `vantage: none`"
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "it needs CAP_NET_ADMIN (and CAP_BPF): run as root or grant them"
        }
        Some(libc::EINVAL) => {
            "the kernel may lack CONFIG_NET_XGRESS, CONFIG_NET_CLS_BPF or CONFIG_NET_CLS_ACT: run \
             `lpm check`"
        }
        Some(libc::EEXIST) => {
            "another tool uses this priority: `tc filter show dev ...` shows which"
        }
        _ => "run `lpm check` to see what this machine supports",
    }
}
