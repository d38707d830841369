//! Access to the bytes of a packet at its hook.

use lpm_common::bytes::{Bytes, OutOfBounds, Prefix};

use crate::{context::Context, settings};

/// The linear part of the packet, read in place.
pub struct DirectAccess {
    data: usize,
    end: usize,
}

impl DirectAccess {
    /// Gives access to the packet at hand.
    #[inline(always)]
    #[must_use]
    pub fn new(ctx: impl Context) -> Self {
        let (data, end) = ctx.linear();
        Self { data, end }
    }
}

impl Prefix for DirectAccess {
    #[inline(always)]
    fn covers(&self, len: usize) -> bool {
        self.data + len <= self.end
    }

    #[inline(always)]
    fn after(&self, offset: u32) -> Self {
        // The mask clears bits that no offset has: the verifier learns a bound
        // from it.
        Self {
            data: self.data + (offset & 0xff) as usize,
            end: self.end,
        }
    }

    #[inline(always)]
    fn byte(&self, offset: usize) -> u8 {
        // SAFETY: the verifier proves that `covers` was asked.
        unsafe { *((self.data + offset) as *const u8) }
    }

    #[inline(always)]
    fn half(&self, offset: usize) -> u16 {
        // SAFETY: as above; the kernel takes unaligned packet reads where the
        // architecture does, and even offsets are aligned everywhere
        // (NET_IP_ALIGN).
        unsafe { *((self.data + offset) as *const u16) }
    }

    #[inline(always)]
    fn word(&self, offset: usize) -> u32 {
        // SAFETY: as above.
        unsafe { *((self.data + offset) as *const u32) }
    }
}

/// The part of the packet that can be read at its hook, linear or not.
#[derive(Clone, Copy)]
pub struct LoadBytes<C> {
    ctx: C,
    len: u32,
}

impl<C: Context> LoadBytes<C> {
    /// Gives access to the packet at hand, which is `len` bytes long.
    #[inline(always)]
    #[must_use]
    pub fn new(ctx: C, len: u32) -> Self {
        Self { ctx, len }
    }
}

impl<C: Context> Bytes for LoadBytes<C> {
    #[inline(always)]
    fn hide_from_verifier(&self, x: u32) -> u32 {
        x ^ settings::nothing()
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Result<[u8; N], OutOfBounds> {
        self.ctx.load(offset)
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Result<[u32; N], OutOfBounds> {
        self.ctx.words(offset)
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        self.len
    }
}
