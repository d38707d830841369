//! A real Kubernetes for tests.
//!
//! [`ApiServer`] is kube-apiserver and etcd alone, on free ports of the loopback interface, with a
//! directory, keys and tokens of their own: enough for everything that only talks to the API.
//! There is no controller, no scheduler and no kubelet behind it, so nothing happens by itself:
//! pods are Running when a test says so ([`ApiServer::patch_status`]), and go at once when deleted.
//!
//! Programs are those that `cargo xtask setup` builds, or those in `KUBEBUILDER_ASSETS`. A test
//! begins with
//!
//! ```no_run
//! use lpm_testbed::kubernetes::ApiServer;
//!
//! let Some(api) = ApiServer::start_or_skip() else { return };
//! ```
//!
//! [`Cluster`] is the whole: two nodes with containers.
//!
//! Everything ends with the value, and with the process, however that ends.

mod api;
pub mod chart;
mod client;
pub mod cluster;
mod error;
mod etcd;
mod process;
mod programs;
mod site;

pub use api::{ApiServer, ServiceAccount};
pub use client::Answer;
pub use cluster::{Cluster, ClusterConfig, Network};
pub use error::Error;
pub use programs::Programs;
