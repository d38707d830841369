//! The bytes of a packet at the TC hook.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_skb_load_bytes, programs::TcContext};
use lpm_common::{
    bytes::{Bytes, OutOfBounds, Prefix},
    packet::Meta,
};

use crate::settings;

/// The linear part of the packet, read in place.
pub struct Linear {
    data: usize,
    end: usize,
}

impl Linear {
    /// Of the packet at hand.
    #[inline(always)]
    #[must_use]
    pub fn new(ctx: &TcContext) -> Self {
        Self {
            data: ctx.data(),
            end: ctx.data_end(),
        }
    }
}

impl Prefix for Linear {
    #[inline(always)]
    fn covers(&self, len: usize) -> bool {
        self.data + len <= self.end
    }

    #[inline(always)]
    fn after(&self, offset: u32) -> Self {
        // Bits that no offset has: the verifier learns a bound from them.
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

/// All of the packet, its parts outside the linear one included. They are
/// copied, never pulled: pulling could move the packet's head.
#[derive(Clone, Copy)]
pub struct Whole {
    skb: *mut __sk_buff,
    len: u32,
}

impl Whole {
    /// Of the packet at hand.
    #[inline(always)]
    #[must_use]
    pub fn new(skb: *mut __sk_buff, len: u32) -> Self {
        Self { skb, len }
    }
}

impl Bytes for Whole {
    #[inline(always)]
    fn forget(&self, x: u32) -> u32 {
        x ^ settings::nothing()
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Result<[u8; N], OutOfBounds> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: the helper writes N bytes, or fails.
        let result = unsafe {
            bpf_skb_load_bytes(
                self.skb.cast::<c_void>(),
                offset,
                bytes.as_mut_ptr().cast::<c_void>(),
                N as u32,
            )
        };
        if result == 0 {
            // SAFETY: the helper has written all of it.
            Ok(unsafe { bytes.assume_init() })
        } else {
            Err(OutOfBounds)
        }
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        self.len
    }
}

/// What the kernel knows of the packet.
#[inline(always)]
#[must_use]
pub(crate) fn meta(skb: *mut __sk_buff) -> Meta {
    // SAFETY: the hook's context; each field is one that TC programs may read.
    let (len, segments, ifindex, tagged) = unsafe {
        (
            (*skb).len,
            (*skb).gso_segs,
            (*skb).ifindex,
            (*skb).vlan_present,
        )
    };
    let vlan = if tagged == 0 {
        0
    } else {
        // SAFETY: as above.
        unsafe { (*skb).vlan_tci & 0xfff }
    };
    Meta {
        len,
        segments: if segments == 0 { 1 } else { segments },
        ifindex,
        vlan,
    }
}

/// The interface that the packet is at.
#[inline(always)]
#[must_use]
pub(crate) fn ifindex(skb: *mut __sk_buff) -> u32 {
    // SAFETY: the hook's context; TC programs may read this field.
    unsafe { (*skb).ifindex }
}
