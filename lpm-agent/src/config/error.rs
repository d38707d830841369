//! What can be wrong with a configuration.

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::yaml;

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the configuration {path}: {source}; check the path and its permissions")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not YAML, has an unknown key or a value of the wrong type.
    #[error(
        "configuration {path}: {reason}\n`lpm config schema` prints every key, `lpm config show` \
         prints the defaults"
    )]
    Parse {
        /// Which file.
        path: PathBuf,
        /// What is wrong, with line and column.
        reason: String,
    },
    /// A value that cannot work.
    #[error("configuration: {key} is {value}: {remedy}")]
    Value {
        /// The key.
        key: &'static str,
        /// The value that it has.
        value: String,
        /// What the operator has to write.
        remedy: &'static str,
    },
    /// Such a value in a file.
    #[error("configuration {path}, line {line}: {key} is {value}: {remedy}")]
    ValueAt {
        /// Which file.
        path: PathBuf,
        /// Which line.
        line: u64,
        /// The key.
        key: &'static str,
        /// The value that it has.
        value: String,
        /// What the operator has to write.
        remedy: &'static str,
    },
}

impl ConfigError {
    /// With the place in a file of this text, if it has the key; else it is of the defaults.
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
