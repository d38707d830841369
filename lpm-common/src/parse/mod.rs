//! Finds the TCP header.
