//! What the steps need beside a packet's bytes.
//!
//! They come as one argument, so that a step's signature says what it does and
//! not what is around it. All steps are inlined: to the kernel programs the
//! struct costs no instruction and no stack.

use super::Interfaces;
use crate::{
    env::Claims,
    hash::Seeds,
    packet::{Direction, Meta},
    parse::Link,
    query::Queries,
    table::Table,
    vlan::Pairs,
};

/// The maps and the secrets that the programs work on.
pub trait Host: Seeds + Table + Claims + Interfaces + Queries + Pairs {}

impl<T: Seeds + Table + Claims + Interfaces + Queries + Pairs> Host for T {}

/// Where a packet passes, and what is there: maps, clocks and counters.
pub struct PacketContext<'a, H, E> {
    /// The packet's metadata, as they stand in flow keys.
    pub meta: Meta,
    /// Link layer: what the interface's frames begin with.
    pub link: Link,
    /// Direction of the packet.
    pub direction: Direction,
    /// Maps and secrets.
    pub host: &'a H,
    /// Clocks, counters, and the way out for samples.
    pub env: &'a E,
}

impl<H, E> PacketContext<'_, H, E> {
    /// Returns this context with other metadata: those of a part of the packet.
    #[inline(always)]
    #[must_use]
    pub fn with(&self, meta: Meta) -> Self {
        Self { meta, ..*self }
    }
}
