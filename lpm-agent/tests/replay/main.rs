//! `lpm replay`: captures through the matcher.

mod bad;
mod ends;
mod formats;
mod run;
mod talk;
mod write;
