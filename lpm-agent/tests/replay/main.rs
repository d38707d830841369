//! `lpm replay`: captures through the matcher.

mod bad;
mod cli;
mod ends;
mod formats;
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
