//! Who probes whom, and when. Pure: lists and seeds in, targets and gaps out.

pub mod rendezvous;
pub mod when;
