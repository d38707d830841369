//! Words of memory that several CPUs, the kernel and the agent share.
//!
//! On every target but BPF these are the atomics of `core`. For BPF, `core` has
//! no atomics that kernels before 6.13 accept, so these types are cells there.
//! A load or store of an aligned word is one instruction. Calls of helpers keep
//! the compiler from moving an access or merging two accesses.

#[cfg(not(target_arch = "bpf"))]
pub use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

#[cfg(target_arch = "bpf")]
pub use self::bpf::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

#[cfg(target_arch = "bpf")]
mod bpf {
    use core::{cell::Cell, sync::atomic::Ordering};

    macro_rules! word {
        ($name:ident, $type:ty) => {
            /// Stands in for the atomic of this name.
            #[derive(Debug, Default)]
            #[repr(transparent)]
            pub struct $name(Cell<$type>);

            impl $name {
                /// Makes a word with this value.
                #[must_use]
                pub const fn new(value: $type) -> Self {
                    Self(Cell::new(value))
                }

                /// Reads the word.
                #[inline(always)]
                #[must_use]
                pub fn load(&self, _: Ordering) -> $type {
                    self.0.get()
                }

                /// Writes the word.
                #[inline(always)]
                pub fn store(&self, value: $type, _: Ordering) {
                    self.0.set(value);
                }

                /// Pointer to the word, for an atomic add.
                #[inline(always)]
                #[must_use]
                pub const fn as_ptr(&self) -> *mut $type {
                    self.0.as_ptr()
                }
            }
        };
    }

    word!(AtomicU8, u8);
    word!(AtomicU16, u16);
    word!(AtomicU32, u32);
    word!(AtomicU64, u64);
}
