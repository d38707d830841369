//! The kernel programs: thin adapters between the kernel's contexts and maps
//! and the pure code of `lpm-common`.
#![no_std]
#![allow(
    internal_features,
    reason = "an atomic add without fetch has no stable name"
)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "numbers are cut to the bits that are meant"
)]
#![feature(asm_experimental_arch, core_intrinsics)]

#[macro_use]
mod global;

pub mod context;
pub mod env;
pub mod hook;
pub mod maps;
pub mod node;
pub mod packet;
pub mod queries;
mod samples;
pub mod settings;
pub mod slow_path;
mod sockets;
pub mod store;
pub mod tunnel;
pub mod vlans;

/// Satisfies the compiler and never runs: the BPF target cannot unwind, and the
/// verifier refuses code that could panic.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
