//! The kernel's packet contexts behind one trait, so that the same code serves
//! TC and XDP. The compiler folds the trait away.
#![allow(
    clippy::not_unsafe_ptr_arg_deref,
    reason = "a context is the pointer that the kernel gave the program; nobody else makes one"
)]

use core::{
    arch::asm,
    ffi::c_void,
    hint::black_box,
    mem::{MaybeUninit, offset_of},
    ptr::read_volatile,
};

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::bpf_skb_load_bytes,
};
use lpm_common::{bytes::OutOfBounds, packet::Meta};

use crate::{
    env::{self, Samples},
    queries::{self, Queries},
    slow_path::{self, Step, scratch},
    sockets, vlans,
};

/// A pointer to the context of the hook that a packet is at.
pub trait Context: Copy {
    /// The last steps with a packet, by direction.
    const STEPS: [[Step<Self>; 5]; 2];
    /// The steps that samples need.
    const SAMPLES: Samples<Self>;
    /// The step for packets whose flow has no entry in its own VLAN, by direction.
    const PLACE: [Step<Self>; 2];
    /// The steps with queries and their answers.
    const QUERIES: Queries<Self>;

    /// The context as the kernel's helpers take it.
    fn as_ptr(self) -> *mut c_void;

    /// Where the linear part of the packet begins and ends.
    fn linear(self) -> (usize, usize);

    /// Reads the `N` bytes at `offset`.
    ///
    /// # Errors
    /// [`OutOfBounds`]: the packet is shorter, or this hook cannot read the
    /// bytes.
    fn load<const N: usize>(self, offset: u32) -> Result<[u8; N], OutOfBounds>;

    /// Reads the `N` words at `offset`.
    ///
    /// # Errors
    /// As [`Context::load`].
    fn words<const N: usize>(self, offset: u32) -> Result<[u32; N], OutOfBounds>;

    /// What the kernel knows of the packet.
    fn meta(self) -> Meta;

    /// The interface that the packet is at.
    fn ifindex(self) -> u32;

    /// `gso_size`; 0: not GSO, or not known.
    fn segment_size(self) -> u32;

    /// The packet's time in test runs, nanoseconds.
    fn packet_ns(self) -> u64;

    /// Whether the packet comes from a socket with this address and port.
    fn sent_by(self, address: [u32; 4], port: u16) -> bool;

    /// Whether the query comes from a socket with this address and port. The
    /// socket may have no address; port 0 stands for none.
    fn asked_by(self, address: [u32; 4], port: u16) -> bool;
}

/// Reads the bytes at `offset`, outside of the linear part, too. They are
/// copied, never pulled: pulling could move the packet's head.
#[inline(always)]
fn copy<T: Copy, const N: usize>(skb: *mut __sk_buff, offset: u32) -> Result<[T; N], OutOfBounds> {
    let mut values = MaybeUninit::<[T; N]>::uninit();
    // SAFETY: the helper writes all of it, or fails.
    let result = unsafe {
        bpf_skb_load_bytes(
            skb.cast(),
            offset,
            values.as_mut_ptr().cast::<c_void>(),
            size_of::<[T; N]>() as u32,
        )
    };
    if result == 0 {
        // SAFETY: the helper has written all of it; T is a number.
        Ok(unsafe { values.assume_init() })
    } else {
        Err(OutOfBounds)
    }
}

impl Context for *mut __sk_buff {
    const STEPS: [[Step<Self>; 5]; 2] = slow_path::OF_SKB;
    const SAMPLES: Samples<Self> = env::OF_SKB;
    const PLACE: [Step<Self>; 2] = vlans::OF_SKB;
    const QUERIES: Queries<Self> = queries::OF_SKB;

    #[inline(always)]
    fn as_ptr(self) -> *mut c_void {
        self.cast()
    }

    #[inline(always)]
    fn linear(self) -> (usize, usize) {
        // SAFETY: the hook's context; TC programs may read these fields.
        unsafe { ((*self).data as usize, (*self).data_end as usize) }
    }

    #[inline(always)]
    fn load<const N: usize>(self, offset: u32) -> Result<[u8; N], OutOfBounds> {
        copy(self, offset)
    }

    #[inline(always)]
    fn words<const N: usize>(self, offset: u32) -> Result<[u32; N], OutOfBounds> {
        copy(self, offset)
    }

    #[inline(always)]
    fn meta(self) -> Meta {
        // SAFETY: the hook's context; each field is one that TC programs may read.
        let (len, segments, ifindex, tagged) = unsafe {
            (
                (*self).len,
                (*self).gso_segs,
                (*self).ifindex,
                (*self).vlan_present,
            )
        };
        let vlan = if tagged == 0 {
            0
        } else {
            // SAFETY: as above.
            unsafe { (*self).vlan_tci & 0xfff }
        };
        Meta {
            len,
            segments: if segments == 0 { 1 } else { segments },
            ifindex,
            vlan,
        }
    }

    #[inline(always)]
    fn ifindex(self) -> u32 {
        // SAFETY: the hook's context; TC programs may read this field.
        unsafe { (*self).ifindex }
    }

    #[inline(always)]
    fn segment_size(self) -> u32 {
        // SAFETY: the hook's context; TC programs may read this field.
        unsafe { (*self).gso_size }
    }

    #[inline(always)]
    fn packet_ns(self) -> u64 {
        // SAFETY: the hook's context; TC programs may read this field.
        unsafe { (*self).tstamp }
    }

    #[inline(always)]
    fn sent_by(self, address: [u32; 4], port: u16) -> bool {
        sockets::sent_by(self, address, port)
    }

    #[inline(always)]
    fn asked_by(self, address: [u32; 4], port: u16) -> bool {
        sockets::asked_by(self, address, port)
    }
}

/// Headers are looked for in this many bytes of an XDP packet, a power of two.
/// Two tunnels with all options and the TCP header take less than half of them.
const XDP_HEADERS: usize = 1 << 10;

/// Reads a field of the context that holds a pointer. The field has 32 bits. In
/// plain Rust the compiler may keep the value as 32 bits, and the verifier then
/// no longer takes it for a pointer.
#[inline(always)]
fn pointer<const FIELD: usize>(xdp: *mut xdp_md) -> usize {
    let pointer;
    // SAFETY: reads a field of the hook's context that XDP programs may read.
    unsafe {
        asm!(
            "{} = *(u32 *)({} + {})",
            out(reg) pointer,
            in(reg) xdp,
            const FIELD,
            options(nostack, readonly, preserves_flags)
        );
    }
    pointer
}

/// Index of the byte of [`word`]'s result that says whether the bytes were
/// read: if so, it is not 0.
const LOADED: usize = 7;

/// Reads the bytes at `offset` into the first bytes of the result. It is a
/// function of its own, like a helper: the verifier then forgets the pointers
/// in it.
#[inline(never)]
fn word<const N: usize>(xdp: *mut xdp_md, offset: u32) -> u64 {
    const { assert!(N <= LOADED, "a word has room for so many") };
    let Some(scratch) = scratch() else { return 0 };
    // The offset goes through a map. Otherwise the verifier would keep apart
    // all the values that it can have, and follow each to the end.
    scratch.offset = offset as usize;
    // SAFETY: a reference; volatile, so that it is read from the map.
    let offset = unsafe { read_volatile(&raw const scratch.offset) };
    if offset > XDP_HEADERS - N {
        return 0;
    }
    let (data, end) = xdp.linear();
    // Both values are opaque to the compiler. So the mask stays, from which
    // the verifier learns a bound; and the pointer that is compared is the one
    // that is read by.
    let at = black_box(data + (black_box(offset) & (XDP_HEADERS - 1)));
    if at + N > end {
        return 0;
    }
    let mut word = [0; 8];
    // SAFETY: within the packet, as was just compared.
    let bytes = unsafe { *(at as *const [u8; N]) };
    if let Some(place) = word.first_chunk_mut::<N>() {
        *place = bytes;
    }
    word[LOADED] = 1;
    u64::from_ne_bytes(word)
}

/// Reads the packet's time, which test runs put before the packet as its
/// metadata. It is a function of its own: outside of test runs it is never
/// called, and inlined it would cost the steps stack that 5.10 does not have.
#[inline(never)]
fn before_the_packet(xdp: *mut xdp_md) -> u64 {
    let at = pointer::<{ offset_of!(xdp_md, data_meta) }>(xdp);
    let (end, _) = xdp.linear();
    if at + size_of::<u64>() > end {
        return 0;
    }
    // SAFETY: within the metadata, as was just compared.
    unsafe { (at as *const u64).read_unaligned() }
}

/// The context at XDP. It has the frame and nothing else: no segments, and no
/// tag beside the frame. Of a packet in several buffers it shows only the
/// first. (A driver passes such packets only to programs that declare support
/// for them; these do not.)
impl Context for *mut xdp_md {
    const STEPS: [[Step<Self>; 5]; 2] = slow_path::OF_XDP;
    const SAMPLES: Samples<Self> = env::OF_XDP;
    const PLACE: [Step<Self>; 2] = vlans::OF_XDP;
    const QUERIES: Queries<Self> = queries::OF_XDP;

    #[inline(always)]
    fn as_ptr(self) -> *mut c_void {
        self.cast()
    }

    #[inline(always)]
    fn linear(self) -> (usize, usize) {
        (
            pointer::<{ offset_of!(xdp_md, data) }>(self),
            pointer::<{ offset_of!(xdp_md, data_end) }>(self),
        )
    }

    #[inline(always)]
    fn load<const N: usize>(self, offset: u32) -> Result<[u8; N], OutOfBounds> {
        let word = word::<N>(self, offset).to_ne_bytes();
        match word.first_chunk::<N>() {
            Some(bytes) if word[LOADED] != 0 => Ok(*bytes),
            _ => Err(OutOfBounds),
        }
    }

    #[inline(always)]
    fn words<const N: usize>(self, offset: u32) -> Result<[u32; N], OutOfBounds> {
        let mut words = [0; N];
        for (word, at) in words.iter_mut().zip(0..) {
            *word = u32::from_ne_bytes(self.load(offset + at * 4)?);
        }
        Ok(words)
    }

    #[inline(always)]
    fn meta(self) -> Meta {
        let (data, end) = self.linear();
        Meta {
            len: (end - data) as u32,
            segments: 1,
            ifindex: self.ifindex(),
            vlan: 0,
        }
    }

    #[inline(always)]
    fn ifindex(self) -> u32 {
        // SAFETY: the hook's context; XDP programs may read this field.
        unsafe { (*self).ingress_ifindex }
    }

    #[inline(always)]
    fn segment_size(self) -> u32 {
        0
    }

    #[inline(always)]
    fn packet_ns(self) -> u64 {
        before_the_packet(self)
    }

    /// A received packet has no socket yet at a network card.
    #[inline(always)]
    fn sent_by(self, _: [u32; 4], _: u16) -> bool {
        false
    }

    #[inline(always)]
    fn asked_by(self, _: [u32; 4], _: u16) -> bool {
        // The context is asked, so that it stays an argument of the step that
        // asks. The compiler leaves out an argument that a step has no use
        // for, and newer verifiers miss it.
        black_box(self).is_null()
    }
}
