//! The kernel room: loads the programs, attaches them, and follows the interfaces.
//!
//! The life of an interface: [`interfaces`] reads it from rtnetlink. [`rules`] decide whether it is
//! watched, and as which vantage. [`attach`] puts two programs on it, both or none. [`hotplug`]
//! follows its changes in a thread of its own. When the interface goes, its flows are forgotten.
//!
//! Crash policy: a TCX link ends with the process that holds it. A netlink filter outlives it. The
//! next agent, or `lpm detach`, removes the filter, after checking by its program that it is ours
//! and that no running agent uses it. Objects of other owners are never touched. The clsact qdisc
//! is never deleted, because others may have put filters on it since.

pub mod attach;
mod attach_error;
pub mod blind;
mod bpf;
pub mod check;
pub mod conntrack;
mod contest;
mod counters;
mod credentials;
pub mod detach;
mod detour;
mod events;
mod holders;
pub mod hotplug;
pub mod interfaces;
pub mod liveness;
pub mod load;
mod load_error;
pub mod maps;
pub mod mmap;
pub mod neighbours;
mod netlink;
pub mod netns;
pub mod one_sided;
pub mod own;
mod ownership;
pub mod pins;
pub mod ports;
pub mod privileges;
mod rcu;
pub mod routes;
pub mod rules;
mod settings;
mod syscall;
pub mod tables;
mod tc;
mod unix_sockets;
mod worker;
pub mod xdp;

pub use bpf::Direction;
pub use credentials::peer_groups;
