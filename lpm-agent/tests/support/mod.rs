//! What the integration tests share. Each of the five test binaries compiles it once.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test binary uses its own part"
)]

pub mod authority;
pub mod clients;
pub mod curl;
pub mod gate;
pub mod kernel;
pub mod limited;
pub mod lpm;
pub mod paths;
pub mod prom;
pub mod ready;
// The agent keeps it to itself.
#[path = "../../src/kernel/syscall.rs"]
pub mod syscall;
pub mod turn;
