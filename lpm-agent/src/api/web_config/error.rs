//! Errors of a web configuration file.

use std::{io, path::PathBuf};

use thiserror::Error;

/// Why a web configuration cannot be used.
#[derive(Debug, Error)]
pub enum WebConfigError {
    /// The file cannot be read.
    #[error(
        "cannot read the web configuration {path}: {source}; check the path and its permissions"
    )]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file is not YAML, or has an unknown key.
    #[error(
        "web configuration {path}: {reason}\ndocs/securing.md says which keys of the exporter \
         toolkit's file the agent has"
    )]
    Syntax {
        /// Path of the file.
        path: PathBuf,
        /// The error, with line and column.
        reason: String,
    },
    /// A key or its value cannot take effect.
    #[error("web configuration {path}, line {line}: {key}: {reason}")]
    Value {
        /// Path of the file.
        path: PathBuf,
        /// Line of the value. 0: the value is missing.
        line: u64,
        /// The key, such as `tls_server_config.min_version`.
        key: String,
        /// The problem and the remedy.
        reason: String,
    },
    /// A key that other keys ask for is missing.
    #[error("web configuration {path}: {key}: {reason}")]
    Missing {
        /// Path of the file.
        path: PathBuf,
        /// The key that is missing.
        key: &'static str,
        /// Why it is needed.
        reason: &'static str,
    },
}
