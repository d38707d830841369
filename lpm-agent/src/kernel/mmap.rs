//! Kernel arrays as memory: read and written without a system call per entry.

use std::{io, marker::PhantomData, num::NonZeroUsize, ptr::NonNull};

use aya::maps::MapData;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use thiserror::Error;

/// Flag `BPF_F_MMAPABLE`: an array must be created with it to be mapped.
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// The smallest page size there is. A mapping starts at a multiple of it at least.
const PAGE: usize = 4096;

/// A type that may be read while the kernel, and other CPUs, write to it.
///
/// # Safety
///
/// Implementors hold nothing but atomics (and arrays and structs of them, `repr(C)`, without
/// padding that anybody reads). So each bit pattern is a value, and a concurrent write is no data
/// race.
pub unsafe trait Shared: Sync {}

// SAFETY: an atomic is valid for every bit pattern and is made for concurrent access.
unsafe impl Shared for std::sync::atomic::AtomicU8 {}
// SAFETY: as above.
unsafe impl Shared for std::sync::atomic::AtomicU16 {}
// SAFETY: as above.
unsafe impl Shared for std::sync::atomic::AtomicU32 {}
// SAFETY: as above.
unsafe impl Shared for std::sync::atomic::AtomicU64 {}
// SAFETY: atomics only, padding spelt out, size asserted.
unsafe impl Shared for lpm_common::layout::Control {}
// SAFETY: as above.
unsafe impl Shared for lpm_common::layout::FlowEntry {}
// SAFETY: as above.
unsafe impl Shared for lpm_common::layout::Histogram {}
// SAFETY: as above.
unsafe impl Shared for lpm_common::layout::QueryEntry {}
// SAFETY: as above.
unsafe impl Shared for lpm_common::layout::RequestEntry {}
// SAFETY: as above.
unsafe impl Shared for lpm_common::layout::Row {}
// SAFETY: an array of shared values has no padding of its own.
unsafe impl<T: Shared, const N: usize> Shared for [T; N] {}

/// Why an array could not be mapped.
#[derive(Debug, Error)]
pub enum MmapError {
    /// The kernel does not tell the map's properties.
    #[error("cannot read the properties of map {map}: {source}")]
    Info {
        /// The map's name.
        map: String,
        /// The kernel's error.
        source: aya::maps::MapError,
    },
    /// The array was created without `BPF_F_MMAPABLE`.
    #[error(
        "map {map} was created without BPF_F_MMAPABLE; the kernel object does not match this \
         agent: run `cargo xtask build` and rebuild the agent"
    )]
    NotMmapable {
        /// The map's name.
        map: String,
    },
    /// The array's values are of another size than the type they are read as.
    #[error(
        "map {map} holds values of {kernel} bytes, the agent expects {agent}; the kernel object \
         does not match this agent: run `cargo xtask build` and rebuild the agent"
    )]
    Layout {
        /// The map's name.
        map: String,
        /// Bytes per value in the kernel.
        kernel: usize,
        /// Bytes per value as the agent knows it.
        agent: usize,
    },
    /// The kernel refused the mapping.
    #[error("cannot map the array {map} ({bytes} bytes) into memory: {source}")]
    Map {
        /// The map's name.
        map: String,
        /// Length of the mapping.
        bytes: usize,
        /// The kernel's error.
        source: io::Error,
    },
}

/// A BPF array, mapped shared and writable: element `i` is a `&T`.
///
/// It keeps the kernel's array alive by itself; the map's descriptor may be closed.
#[derive(Debug)]
pub struct MmapArray<T> {
    base: NonNull<std::ffi::c_void>,
    bytes: usize,
    stride: usize,
    len: usize,
    values: PhantomData<T>,
}

// SAFETY: the mapping is owned and stays where it is; T may be looked at from several threads.
unsafe impl<T: Shared> Send for MmapArray<T> {}
// SAFETY: as above.
unsafe impl<T: Shared> Sync for MmapArray<T> {}

impl<T: Shared> MmapArray<T> {
    /// Maps the whole array of a map that was created with `BPF_F_MMAPABLE`.
    pub fn new(map: &MapData) -> Result<Self, MmapError> {
        let info = map.info().map_err(|source| MmapError::Info {
            map: "?".into(),
            source,
        })?;
        let name = info.name_as_str().unwrap_or("?").to_owned();
        if info.map_flags() & BPF_F_MMAPABLE == 0 {
            return Err(MmapError::NotMmapable { map: name });
        }
        let (kernel, agent) = (info.value_size() as usize, size_of::<T>());
        // The kernel starts element 0 on a page and spaces elements by multiples of 8 bytes.
        let stride = kernel.next_multiple_of(8);
        if kernel != agent || !stride.is_multiple_of(align_of::<T>()) || align_of::<T>() > PAGE {
            return Err(MmapError::Layout {
                map: name,
                kernel,
                agent,
            });
        }
        let len = info.max_entries() as usize;
        let bytes = stride * len;
        let refused = |source| MmapError::Map {
            map: name.clone(),
            bytes,
            source,
        };
        let length = NonZeroUsize::new(bytes)
            .ok_or_else(|| refused(io::Error::from(io::ErrorKind::InvalidInput)))?;
        // SAFETY: a fresh mapping at an address that the kernel picks, owned by the value we
        // return; its end is rounded up to a page by the kernel, its start is element 0.
        let base = unsafe {
            mmap(
                None,
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                map.fd(),
                0,
            )
        }
        .map_err(|errno| refused(errno.into()))?;
        Ok(Self {
            base,
            bytes,
            stride,
            len,
            values: PhantomData,
        })
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no element (the kernel makes no such array).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Element `index`, or `None` past the end.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&T> {
        if index >= self.len {
            return None;
        }
        // SAFETY: index < len, so the element lies inside the mapping, which lives as long as
        // self; new() checked that stride and base are aligned for T and that T fits; T is
        // Shared, so whatever the kernel writes there is a value of it and no data race.
        Some(unsafe { self.base.byte_add(index * self.stride).cast::<T>().as_ref() })
    }

    /// All elements in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        (0..self.len).filter_map(|index| self.get(index))
    }
}

impl<T> Drop for MmapArray<T> {
    fn drop(&mut self) {
        // SAFETY: this mapping is ours, and no reference into it outlives self.
        // A failure means a wrong address, which it is not; there is nothing to do about it.
        let _ = unsafe { munmap(self.base, self.bytes) };
    }
}
