//! The testbed and the benchmark harness.
//!
//! [`testbed`] lays out nodes and pods as network namespaces, with a wire
//! between them that delays, loses and logs packets; [`traffic`] drives flows
//! across them; [`truth`] holds what the agent measures against the wire's log.
//! All work in the calling process: what they made is gone when their guards
//! are dropped, also after a panic.

pub mod cost;
pub mod kubernetes;
pub mod replay;
pub mod scale;
pub mod testbed;
pub mod traffic;
pub mod truth;

pub use truth::machine;
