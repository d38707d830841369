//! The memory that the kernel programs and the agent share: every map key and
//! value, with asserted size and offsets.
//!
//! Values that live in memory-mapped maps consist of atomics, because the
//! kernel writes while the agent reads. Their loads and stores are plain
//! machine words on every architecture; read-modify-write goes through
//! [`crate::env::Env`], since the BPF target has no method for it.

mod control;
mod flow;
mod names;
mod query;
mod request;
mod sample;
pub mod tunnel;
mod vlan;

pub use control::{ASKED, Control, Histogram, InterfaceConfig, Vantage};
pub use flow::{DirectionHot, DirectionSlots, FlowCold, FlowEntry, SLOTS, Traffic, UNIT_NS};
pub use names::{
    BackendKey, Family, MOST_BACKENDS, NameId, NameKey, NameValue, PairKey, PeerKind, Row,
    backend_key,
};
pub use query::{
    DNS_TIMEOUT_NS, DNS_UNANSWERED, FIRST_UNIT_NS, ICMP_TIMEOUT_NS, ICMP_UNANSWERED, NOWHERE,
    Phase, QueryEntry, Rcode, timeout_ns,
};
pub use request::{RequestEntry, RequestPhase};
pub use sample::{Echo, Leg, Method, Methods, Sample};
pub use tunnel::{Tunnel, TunnelKind};
pub use vlan::{UNSEEN, VlanPair};

/// Version of every layout in this module; part of the name of any pin.
pub const LAYOUT_VERSION: u32 = 3;
