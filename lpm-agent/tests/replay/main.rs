//! `lpm replay`: captures through the matcher.

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
#[path = "../lpm/mod.rs"]
mod lpm;
mod others;
mod questions;
mod requests;
mod run;
mod talk;
mod taps;
mod vlans;
mod write;
