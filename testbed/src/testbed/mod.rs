//! Nodes, pods and the wires between them, as network namespaces.
//!
//! A topology is a value: [`Pair`] (a pod, its node, a remote machine),
//! [`Overlay`] (two nodes, pods, a `VxLAN` overlay), [`Multipath`] (equal-cost
//! paths) or [`VlanPair`] (tagged frames). Dropping it removes every namespace, interface and process. Each
//! has a [`DelayLine`] as its wire, which can be set while traffic runs.
//!
//! Addresses are of 198.18.0.0/15 and `fd00::/8`; namespaces are named
//! `lpmt-<pid>-<n>-<label>`, so that topologies run side by side.

mod bpffs;
mod child;
mod error;
mod multipath;
mod netns;
mod overlay;
mod pair;
mod reach;
mod redirect;
mod segmented;
mod vlan;
pub mod wire;

pub use bpffs::Bpffs;
pub use child::NsChild;
pub use error::Error;
pub use multipath::{Multipath, MultipathConfig};
pub(crate) use netns::alive;
pub use netns::{NAME_PREFIX, Netns};
pub use overlay::{Flavour, Overlay, OverlayConfig, Pod};
pub use pair::{Pair, PairConfig};
pub use reach::{DEADLINE, connect_time, wait_reachable};
pub use redirect::{Redirect, RedirectedPod};
pub use segmented::Segmented;
pub use vlan::VlanPair;
pub use wire::{DelayLine, Direction, Impairment, WireEnd};
