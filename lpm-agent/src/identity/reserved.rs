//! Reserved names, which LPM gives itself: no source of names can take them away.

/// Namespace of an address of the cluster whose owner is unknown.
pub const UNKNOWN: &str = "unknown";

/// Name of what has no series of its own: it is not among the busiest, or the table of rows is
/// full.
pub const OVERFLOW: &str = "overflow";

/// Stands, in ids only, for namespaces that are gone while the nodes or zones of their round trips
/// live. No source of names can give this namespace.
pub const GONE_NAMESPACE: &str = "(gone)";

/// Namespace of the nodes' own addresses, unless the names file gives another.
pub const HOST: &str = "host";
