//! The passive room: reads flows, histograms and counters from the kernel's maps into the agent's
//! model.
//!
//! Everything is read through memory maps. Nothing here makes a system call per entry. The model
//! works on the traits of [`crate::kernel::maps`]. The kernel room implements them over its maps,
//! and the tests over plain vectors.

pub mod clock;
pub mod directions;
pub mod flow;
pub mod histogram;
pub mod model;
pub mod name_ids;
pub mod pairs;
pub mod segments;
pub mod window;

pub use clock::Clock;
pub use flow::Flow;
pub use histogram::Counts;
pub use model::{Labels, Model};
pub use name_ids::NameIds;
pub use pairs::NodePairs;
