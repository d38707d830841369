//! The bytes of a packet, of which the end may not have been captured.

use lpm_common::bytes::{Bytes, OutOfBounds, Prefix};

/// The captured part of a packet, and the packet's length.
#[derive(Clone, Copy, Debug)]
pub struct Captured<'a> {
    /// The captured part.
    pub data: &'a [u8],
    /// Length of the whole packet, bytes.
    pub len: u32,
}

impl Bytes for Captured<'_> {
    fn load<const N: usize>(&self, offset: u32) -> Result<[u8; N], OutOfBounds> {
        self.data.load(offset)
    }

    fn len(&self) -> u32 {
        self.len
    }
}

impl Prefix for Captured<'_> {
    fn covers(&self, len: usize) -> bool {
        self.data.covers(len)
    }

    fn after(&self, offset: u32) -> Self {
        Self {
            data: self.data.after(offset),
            len: self.len.saturating_sub(offset),
        }
    }

    fn byte(&self, offset: usize) -> u8 {
        Prefix::byte(&self.data, offset)
    }

    fn half(&self, offset: usize) -> u16 {
        self.data.half(offset)
    }

    fn word(&self, offset: usize) -> u32 {
        Prefix::word(&self.data, offset)
    }
}
