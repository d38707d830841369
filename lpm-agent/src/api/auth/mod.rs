//! How clients prove who they are: passwords, bearer tokens, reviews of the cluster, and where a
//! request comes from.
//!
//! [`access`](super::access) asks each of these and decides what a client may do.

mod basic;
pub(super) mod credentials;
mod evidence;
mod host;
mod kubernetes;
mod rate;
pub(super) mod secret;
mod stamps;
mod tokens;

pub use evidence::{ClientCertificate, Evidence};
pub use tokens::TokenError;

pub(super) use basic::{Passwords, Verdict as PasswordVerdict};
pub(super) use host::is_this_machine;
pub(super) use kubernetes::{Reviews, Verdict as ReviewVerdict};
pub(super) use rate::Bucket;
pub(super) use stamps::Stamps;
pub(super) use tokens::Tokens;
