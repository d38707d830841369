//! Errors of a configuration.

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::foreign::Kind;
use crate::yaml;

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}; check the path and its permissions")]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file is not YAML, has an unknown key, or has a value of the wrong type.
    #[error(
        "configuration {path}: {reason}\n`lpm config schema` prints every key, `lpm config show` \
         prints the defaults"
    )]
    Parse {
        /// Path of the file.
        path: PathBuf,
        /// The error, with line and column.
        reason: String,
    },
    /// A file of another system cannot be used.
    #[error("{path}, which is {kind}: {reason}")]
    Foreign {
        /// Path of the file.
        path: PathBuf,
        /// The system that the file is of.
        kind: Kind,
        /// What is wrong with it, with its line, and the remedy.
        reason: String,
    },
    /// A file has keys of another system and keys of this one.
    #[error(
        "configuration {path}: line {line} has {key}, which makes it {kind}, and line {own_line} has \
         {own}, a key of lpm's own: keep the keys of one of them (`lpm config import FILE` turns the \
         other system's file into lpm's)"
    )]
    Mixed {
        /// Path of the file.
        path: PathBuf,
        /// The system that the file would be of.
        kind: Kind,
        /// A key of that system, and its line.
        key: String,
        /// Line of that key.
        line: u64,
        /// A key of this system.
        own: String,
        /// Line of that key.
        own_line: u64,
    },
    /// A value cannot work.
    #[error("configuration: {key} is {value}: {remedy}")]
    Value {
        /// The configuration key.
        key: &'static str,
        /// The value of the key.
        value: String,
        /// What the operator has to write.
        remedy: &'static str,
    },
    /// A value in a file cannot work.
    #[error("configuration {path}, line {line}: {key} is {value}: {remedy}")]
    ValueAt {
        /// Path of the file.
        path: PathBuf,
        /// Line of the key.
        line: u64,
        /// The configuration key.
        key: &'static str,
        /// The value of the key.
        value: String,
        /// What the operator has to write.
        remedy: &'static str,
    },
}

impl ConfigError {
    /// Adds the place in a file with this text, if the text has the key. Without the key the value
    /// is a default, and there is no place.
    pub(super) fn within(self, text: &str, path: &Path) -> Self {
        match self {
            Self::Value { key, value, remedy } => match yaml::line_of(text, key) {
                Some(line) => Self::ValueAt {
                    path: path.to_owned(),
                    line,
                    key,
                    value,
                    remedy,
                },
                None => Self::Value { key, value, remedy },
            },
            other => other,
        }
    }
}
