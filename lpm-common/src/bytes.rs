//! Access to the bytes of a packet.

/// A packet ends before the bytes that were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfBounds;

/// Reads any bytes of a packet, linear or not. The slow path reads with it.
pub trait Bytes {
    /// The `N` bytes at `offset`.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the packet is shorter.
    fn load<const N: usize>(&self, offset: u32) -> Result<[u8; N], OutOfBounds>;

    /// Hides the value of `x` from the verifier; see
    /// [`crate::env::Env::hide_from_verifier`].
    #[inline(always)]
    fn hide_from_verifier(&self, x: u32) -> u32 {
        x
    }

    /// Length of the packet, link-layer header included, bytes.
    fn len(&self) -> u32;

    /// Whether the packet has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The byte at `offset`.
    fn byte(&self, offset: u32) -> Result<u8, OutOfBounds> {
        self.load::<1>(offset).map(|[byte]| byte)
    }

    /// The 16-bit number in network byte order at `offset`.
    fn be16(&self, offset: u32) -> Result<u16, OutOfBounds> {
        self.load::<2>(offset).map(u16::from_be_bytes)
    }

    /// The 32-bit number in network byte order at `offset`.
    fn be32(&self, offset: u32) -> Result<u32, OutOfBounds> {
        self.load::<4>(offset).map(u32::from_be_bytes)
    }

    /// The 32 bits at `offset` as they are in memory.
    fn word(&self, offset: u32) -> Result<u32, OutOfBounds> {
        self.load::<4>(offset).map(u32::from_ne_bytes)
    }

    /// The `N` words at `offset` as they are in memory. Where each load is a
    /// call, this is one for all of them.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the packet is shorter.
    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Result<[u32; N], OutOfBounds> {
        let mut words = [0; N];
        for (word, at) in words.iter_mut().zip(0..) {
            *word = self.word(offset + at * 4)?;
        }
        Ok(words)
    }
}

/// The first bytes of a packet, at fixed offsets, in memory that a pointer can
/// address. The fast path reads with it: one call of [`Prefix::covers`] allows
/// any number of plain reads.
pub trait Prefix {
    /// Whether the first `len` bytes are there. Only covered bytes may be read;
    /// any other byte reads as 0.
    fn covers(&self, len: usize) -> bool;

    /// The bytes after the first `offset`. They have to be covered again.
    #[must_use]
    fn after(&self, offset: u32) -> Self;

    /// The byte at `offset`.
    fn byte(&self, offset: usize) -> u8;

    /// The 16 bits at `offset` as they are in memory.
    fn half(&self, offset: usize) -> u16;

    /// The 32 bits at `offset` as they are in memory.
    fn word(&self, offset: usize) -> u32;

    /// The 16-bit number in network byte order at `offset`.
    #[inline(always)]
    fn be16(&self, offset: usize) -> u16 {
        u16::from_be(self.half(offset))
    }

    /// The 32-bit number in network byte order at `offset`.
    #[inline(always)]
    fn be32(&self, offset: usize) -> u32 {
        u32::from_be(self.word(offset))
    }
}

impl Bytes for &[u8] {
    fn load<const N: usize>(&self, offset: u32) -> Result<[u8; N], OutOfBounds> {
        let start = usize::try_from(offset).map_err(|_| OutOfBounds)?;
        self.get(start..)
            .and_then(|rest| rest.first_chunk::<N>())
            .copied()
            .ok_or(OutOfBounds)
    }

    fn len(&self) -> u32 {
        u32::try_from(<[u8]>::len(self)).unwrap_or(u32::MAX)
    }
}

impl Prefix for &[u8] {
    fn covers(&self, len: usize) -> bool {
        <[u8]>::len(self) >= len
    }

    fn after(&self, offset: u32) -> Self {
        self.get(offset as usize..).unwrap_or_default()
    }

    fn byte(&self, offset: usize) -> u8 {
        self.get(offset).copied().unwrap_or_default()
    }

    fn half(&self, offset: usize) -> u16 {
        let bytes = self.get(offset..).and_then(|rest| rest.first_chunk());
        u16::from_ne_bytes(bytes.copied().unwrap_or_default())
    }

    fn word(&self, offset: usize) -> u32 {
        let bytes = self.get(offset..).and_then(|rest| rest.first_chunk());
        u32::from_ne_bytes(bytes.copied().unwrap_or_default())
    }
}
