//! What tests and benchmarks make packets of: frames, tunnels around them, questions and answers,
//! and vectors that the kernel programs and the host are both run through.

pub mod frame;
pub mod query;
pub mod tunnel;
pub mod vectors;
