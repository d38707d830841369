//! The agent: loads the kernel programs, reads what they measured, names it and serves it.

pub mod config;
pub mod identity;
pub mod kernel;
pub mod passive;
