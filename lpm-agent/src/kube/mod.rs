//! The API server of Kubernetes: one client for all rooms that need it.
//!
//! `connect` makes a client. `Follower` lists one kind of object, watches it, and retries after a
//! failure. `Relist` turns the events into objects that exist and objects that are gone. `Server`
//! reads single objects. `Reviewer` asks whose a token is and what its holder may do. A `Failure` has a word for metrics and a sentence for people. The rooms
//! above decide what the objects mean.

mod api_error;
mod client;
mod read;
mod relist;
mod review;
mod uid;
mod watch;

pub(crate) use api_error::{Failure, FollowedKind};
pub(crate) use client::connect;
pub use client::{ConnectError, in_cluster};
pub(crate) use read::{List, Server, read};
pub use read::{NoAnswer, ObjectReader};
pub use relist::Event;
pub(crate) use relist::{Relist, Step};
pub(crate) use review::Reviewer;
pub(crate) use uid::{uid, uid_of};
pub(crate) use watch::{Follower, Message};
