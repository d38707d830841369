//! The ground truth: what the agent measures, held against a log of every packet.
//!
//! A pod talks to a remote machine across a [`DelayLine`](crate::testbed::DelayLine),
//! which logs when each packet came and left. A [`Monitor`] (the real binary, in
//! a process of its own) watches the pod's veth. Of each of its samples the
//! [`WireTruth`] knows from the log how long the wire really held the stamped
//! packet and its echo; what a sample shows beyond that must not depend on the
//! delay. [`Runner`] runs that for one delay after the other, [`Capture`]
//! compares with a matcher that has no limits, and [`Report`] judges.

mod capture;
mod error;
mod monitor;
mod report;
mod result;
mod runner;
mod wire_truth;

pub use capture::{Capture, Reference, Unlimited};
pub use error::Error;
pub use monitor::{Echo, Leg, Method, Monitor, Sample, Tunnel};
pub use report::{Judgement, Report, machine};
pub use result::{Client, RunResult, Stamps};
pub use runner::{Plan, Runner};
pub use wire_truth::{Truth, WireTruth};

pub use crate::stats::{Spread, bucket, float};
