//! Stamps and matches.
