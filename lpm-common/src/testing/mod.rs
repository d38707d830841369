//! Packets for tests and benchmarks: frames, tunnels around them, queries and
//! answers, and vectors that both the kernel programs and the host model run.

pub mod frame;
pub mod query;
pub mod tunnel;
pub mod vectors;
