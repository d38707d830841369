//! What happens to a packet, from its bytes to a counted round trip.
//!
//! Everything here is pure, `no_std` and without `unsafe`: the kernel programs
//! (`lpm-ebpf`), the host tests, the fuzzers and offline replay run the very
//! same code. It reaches its surroundings through small traits:
//! [`bytes::Bytes`] for the packet, [`env::Env`] for clocks, counters and
//! atomic adds, [`table::Table`] for the flow table's memory.
//!
//! A packet takes these steps: [`parse`] finds the TCP header and its
//! timestamps. [`hash`] turns the flow key into a fingerprint. [`table`] finds
//! or makes the flow entry. [`matcher`] stamps the packet and matches it
//! against earlier stamps. [`histogram`] chooses the bucket in which the round
//! trip is counted. [`query`] does the same for queries and their answers (ICMP
//! echo, DNS). [`layout`] fixes the memory that the kernel and the agent share.
#![no_std]
#![forbid(unsafe_code)]
#![allow(
    clippy::inline_always,
    reason = "the kernel's verifier pays for every call, and hot paths want constants folded"
)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "header fields and hashes are cut to the bits that are meant"
)]

#[cfg(any(test, feature = "host"))]
extern crate std;

pub mod atomic;
pub mod bytes;
pub mod counter;
pub mod env;
pub mod hash;
pub mod histogram;
#[cfg(any(test, feature = "host"))]
pub mod host;
pub mod layout;
pub mod matcher;
pub mod packet;
pub mod parse;
pub mod pipeline;
pub mod query;
pub mod rows;
pub mod stamp;
pub mod table;
#[cfg(any(test, feature = "host"))]
pub mod testing;
pub mod vlan;
