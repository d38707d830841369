//! Traffic for the testbed.
