//! The agent: loads the kernel programs, reads what they measured, names it and serves it.

pub mod active;
pub mod api;
mod backoff;
pub mod cli;
pub mod config;
pub mod export;
mod fnv;
mod glob;
pub mod identity;
pub mod kernel;
pub mod kube;
mod mesh;
pub mod passive;
pub mod replay;
pub mod session;
pub mod shutdown;
mod text;
mod yaml;

#[cfg(test)]
mod docs;
#[cfg(test)]
mod rooms;
