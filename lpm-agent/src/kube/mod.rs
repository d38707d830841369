//! The API server of Kubernetes: the one way to it for whoever needs one.
//!
//! [`connect`] makes a client. [`Follower`] lists one kind of objects, watches it and tries again
//! whatever breaks; [`Relist`] turns its events into what is there and what is gone. [`Server`]
//! reads single objects. A [`Failure`] has a word for metrics and a sentence for people. What the
//! objects mean is left to the rooms above.

mod api_error;
mod client;
mod read;
mod relist;
mod uid;
mod watch;

pub(crate) use api_error::{Failure, FollowedKind};
pub(crate) use client::connect;
pub use client::{ConnectError, in_cluster};
pub(crate) use read::{List, Server, read};
pub use read::{NoAnswer, ObjectReader};
pub use relist::Event;
pub(crate) use relist::{Relist, Step};
pub(crate) use uid::{uid, uid_of};
pub(crate) use watch::{Follower, Message};
