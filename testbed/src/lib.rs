//! The testbed: networks of namespaces, traffic, a Kubernetes, and the ground truth.
//!
//! [`testbed`] lays out nodes and pods as network namespaces, with a wire
//! between them that delays, loses and logs packets. [`traffic`] drives flows
//! across them. [`kubernetes`] runs a real API server, or a cluster of two
//! nodes. [`truth`] holds what the agent measures against the wire's log, and
//! [`soak`] looks whether agents take more and more; both know the agent only
//! as a program. Nothing here imports another crate of
//! this workspace, so the tests of each of them may use it.
//!
//! All work in the calling process: what they made is gone when their guards
//! are dropped, also after a panic.

pub mod kubernetes;
pub mod soak;
mod stats;
pub mod testbed;
pub mod traffic;
pub mod truth;

pub use truth::machine;
