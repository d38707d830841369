//! Who owns an address: names from a real API server, from other agents and from the interfaces.

mod follower;
mod interface_owner;
mod kubernetes;
mod kubernetes_names;
mod node_pairs;
mod node_scope;
mod peer;
mod probed_nodes;
mod reviews;
mod session;
#[path = "../support/mod.rs"]
mod support;
