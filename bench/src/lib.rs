//! The benchmarks: what a packet costs, what an agent takes on a large node, how fast captures
//! are read, how near a probe's round trip is to the wire's.
//!
//! The networks and the traffic that they measure are those of `lpm-testbed`.

pub mod cost;
pub mod probe;
pub mod replay;
pub mod scale;
