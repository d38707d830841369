//! Names of addresses: from Kubernetes, a static file, the node's own addresses, and local
//! processes.
//!
//! Each source of names sends its changes ([`merge::Change`]). [`merge::Merge`] knows which source
//! has precedence. [`Registry`] keeps the names that hold, and answers everyone who looks names up.
//! Nothing here needs a kernel: the room `passive` puts the names into the kernel's maps.

pub mod addresses;
pub(crate) mod cidr;
pub mod claims;
pub mod cluster_nodes;
pub mod cluster_ranges;
pub mod cni;
pub mod external;
pub mod ids;
pub mod kubernetes;
pub mod labels;
pub mod merge;
pub mod names_file;
pub mod peers;
pub mod permits;
pub mod processes;
pub mod ranges;
pub mod registry;
pub mod reserved;
pub mod resolver;
pub mod status;

pub use ids::{Levels, Member};
pub use names_file::Name;
pub use ranges::PrefixMap;
pub use registry::Registry;
pub use resolver::Resolver;

pub use reserved::{GONE_NAMESPACE, HOST, OVERFLOW, UNKNOWN};
