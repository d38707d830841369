//! The testbed and the benchmark harness.
