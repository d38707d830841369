//! `lpm`: passive network latency, per flow and namespace.

fn main() {}
