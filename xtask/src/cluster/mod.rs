//! A real Kubernetes on this machine, for tests and for developers.

mod go;

pub(crate) use self::go::{GoProgram, Toolchain};
