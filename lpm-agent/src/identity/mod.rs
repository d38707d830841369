//! Who an address is: names from Kubernetes, from a static file, the node's own addresses, local
//! processes.
//!
//! Each source of names says what changes ([`merge::Change`]); [`merge::Merge`] knows which source goes before
//! which. [`Directory`] gives each namespace (and, by [`Levels`], what is told apart within) a
//! small number, puts the ranges into the kernel's map `NAMES` and answers the exporters.

pub mod addresses;
pub(crate) mod cidr;
pub mod cni;
pub mod directory;
pub mod external;
pub mod ids;
pub mod kubernetes;
pub mod labels;
pub mod merge;
pub mod names;
pub mod peers;
pub mod processes;
pub mod ranges;
pub mod reserved;
pub mod status;
pub mod whose;
pub mod within;

pub use directory::Directory;
pub use ids::{Levels, Member};
pub use names::Name;
pub use ranges::Names;
pub use whose::Whose;

pub use reserved::{HOST, OVERFLOW, UNKNOWN};
