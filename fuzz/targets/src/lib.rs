//! What the fuzzers call: one function for each kind of input that strangers write.
//!
//! A function takes any bytes. It panics if the code panics, or if a result is one that no input may
//! lead to: a round trip that no two packets span, a name outside of its owner's range, text that is
//! not read as it was written. `cargo xtask fuzz` runs the functions under libFuzzer, and the test
//! `corpus` runs them on the inputs in `fuzz/seeds`.
#![allow(
    clippy::missing_panics_doc,
    reason = "each function panics where it finds something, as said above"
)]

mod captures;
mod cluster;
mod flows;
mod packet;
mod stamp;
mod text;

pub use self::{
    captures::capture,
    cluster::{annotations, peers, pods},
    flows::{flows, queries},
    packet::{packets, parse, tunnels},
    stamp::stamp,
    text::{accept, config, names},
};

/// A function that takes any bytes.
pub type Target = fn(&[u8]);

/// All targets, by name.
pub const TARGETS: [(&str, Target); 13] = [
    ("accept", accept),
    ("annotations", annotations),
    ("capture", capture),
    ("config", config),
    ("flows", flows),
    ("names", names),
    ("packets", packets),
    ("parse", parse),
    ("peers", peers),
    ("pods", pods),
    ("queries", queries),
    ("stamp", stamp),
    ("tunnels", tunnels),
];
