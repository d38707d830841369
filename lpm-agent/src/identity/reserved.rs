//! Names that LPM gives itself: no names source can take them away.

/// Namespace of an address that belongs to somebody in the cluster, while it is not known to whom.
pub const UNKNOWN: &str = "unknown";

/// Name shown for what has no series of its own: it is not among the busiest, or the table of rows
/// is full.
pub const OVERFLOW: &str = "overflow";

/// Namespace of the nodes' own addresses, unless the names file gives another.
pub const HOST: &str = "host";
