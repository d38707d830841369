//! Who an address is: names from a static file, the node's own addresses, local processes.
//!
//! A source of names fills [`Names`]; [`Directory`] gives each namespace (and, by [`Levels`], what is told apart within) a small number, puts the
//! ranges into the kernel's map `NAMES` and answers the exporters.

pub mod addresses;
pub mod cni;
pub mod directory;
pub mod ids;
pub mod local;
pub mod names;
pub mod processes;

pub use directory::Directory;
pub use ids::{Levels, Member};
pub use names::{Name, Names};
