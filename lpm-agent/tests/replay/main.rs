//! `lpm replay`: captures through the matcher, and beside the kernel programs (`live`).

mod bad;
mod cli;
mod ends;
mod formats;
// The capture that `cargo xtask bench replay` reads, too; that crate depends on this one.
#[path = "../../../bench/src/replay/generator.rs"]
#[allow(unreachable_pub, reason = "it is public where it comes from")]
mod generator;
mod harm;
mod large;
mod live;
mod others;
mod queries;
mod requests;
mod run;
#[path = "../support/mod.rs"]
mod support;
mod talk;
mod taps;
mod vlans;
mod write;
