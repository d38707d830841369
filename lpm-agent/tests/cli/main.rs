//! The commands of `lpm`: bad input, what an agent needs to start, the commands in its container.

mod bad_input;
mod container;
mod foreign;
mod guest_clock;
mod interop;
mod path;
mod privileges;
mod probe;
mod probe_errors;
mod stamps;
mod startup_errors;
#[path = "../support/mod.rs"]
mod support;
mod sweep;
mod syn;
mod terminal;
mod truth;
