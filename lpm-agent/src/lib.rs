//! The agent: loads the kernel programs, reads what they measured, names it and serves it.

pub mod kernel;
