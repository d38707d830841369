//! `lpm replay` on captures that nobody wants to keep: a generator of any size, and how fast the
//! real binary reads it.

mod generator;
mod measure;
mod report;

pub use generator::{Generator, Plan};
pub use measure::{Case, Figures, measure};
pub use report::Report;
