//! Names of addresses: from Kubernetes, a static file, the node's own addresses, and local
//! processes.
//!
//! Each source of names sends its changes ([`merge::Change`]). [`merge::Merge`] knows which source
//! has precedence. [`Directory`] gives a small number to each namespace and, by [`Levels`], to its
//! members. It puts the ranges into the kernel's map `NAMES`, and answers the exporters.

pub mod addresses;
pub(crate) mod cidr;
pub mod cluster_ranges;
pub mod cni;
pub mod directory;
pub mod external;
pub mod ids;
pub mod kubernetes;
pub mod labels;
pub mod merge;
pub mod names_file;
pub mod peers;
pub mod processes;
pub mod ranges;
pub mod reserved;
pub mod resolver;
pub mod status;

pub use directory::Directory;
pub use ids::{Levels, Member};
pub use names_file::Name;
pub use ranges::PrefixMap;
pub use resolver::Resolver;

pub use reserved::{HOST, OVERFLOW, UNKNOWN};
