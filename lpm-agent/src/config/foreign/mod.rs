//! Configuration files of other systems, read as they stand: L2S-M LPM's and LLAMA's.
//!
//! [`Foreign::parse`] tells whose file it is by its keys. Each reader is a pure function from the text
//! to a [`Config`] and notes on what that lacks.

mod l2sm;
mod llama;
mod print;
mod shape;
#[cfg(test)]
mod tests;

use std::{
    fmt, fs,
    net::{Ipv6Addr, SocketAddr},
    path::Path,
};

use super::{Config, ConfigError, Enabled, Role};
use crate::yaml;
use shape::Shape;

/// The systems, and forms of their files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The configuration of one node of L2S-M LPM.
    L2sm,
    /// The values of L2S-M LPM's Helm chart, which are of all nodes.
    L2smChart,
    /// LLAMA's configuration.
    Llama,
    /// LLAMA's configuration in its older form: addresses, each with its tags.
    LlamaLegacy,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::L2sm => "L2S-M LPM's configuration",
            Self::L2smChart => "the values of L2S-M LPM's chart",
            Self::Llama => "LLAMA's configuration",
            Self::LlamaLegacy => "LLAMA's configuration in its older form",
        })
    }
}

/// What has no counterpart, or another one than one might expect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Line in the file. None: it is of the whole file.
    pub line: Option<u64>,
    /// The sentence for the operator.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        f.write_str(&self.text)
    }
}

/// The configuration of one node.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Name of the node, if the file tells it.
    pub node: Option<String>,
    /// The configuration.
    pub config: Config,
    /// What the configuration lacks, in the file's order.
    pub notes: Vec<Note>,
}

/// A file of another system.
#[derive(Clone, Debug)]
pub struct Foreign {
    /// The system that the file is of, and its form.
    pub kind: Kind,
    /// The nodes that it configures: one, but for a chart's values.
    pub nodes: Vec<Imported>,
}

impl Foreign {
    /// Reads a file. None: it is of no other system.
    ///
    /// # Errors
    /// It cannot be read, it has keys of two systems, or its values cannot work.
    pub fn read(path: &Path) -> Result<Option<Self>, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Reads a text. None: it is of no other system. `path` is for messages.
    ///
    /// # Errors
    /// It has keys of two systems, or its values cannot work.
    pub(super) fn parse(text: &str, path: &Path) -> Result<Option<Self>, ConfigError> {
        let mended = l2sm::mend(text);
        let keys = yaml::keys(&mended);
        let Some(Shape { kind, key, line }) = Shape::of(&keys) else {
            return Ok(None);
        };
        if let Some((own, own_line)) = shape::own(&keys) {
            return Err(ConfigError::Mixed {
                path: path.to_owned(),
                kind,
                key,
                line,
                own: own.to_owned(),
                own_line,
            });
        }
        let wrong = |reason| ConfigError::Foreign {
            path: path.to_owned(),
            kind,
            reason,
        };
        let nodes = match kind {
            Kind::L2sm => vec![l2sm::node(&mended).map_err(wrong)?],
            Kind::L2smChart => l2sm::chart(text).map_err(wrong)?,
            Kind::Llama => vec![llama::full(text).map_err(wrong)?],
            Kind::LlamaLegacy => vec![llama::legacy(text).map_err(wrong)?],
        };
        for node in &nodes {
            let checked = node.config.check();
            checked.map_err(|error| wrong(error.to_string()))?;
        }
        Ok(Some(Self { kind, nodes }))
    }

    /// The configuration, if it is of one node.
    ///
    /// # Errors
    /// It is of all nodes.
    pub(super) fn into_config(mut self, path: &Path) -> Result<Config, ConfigError> {
        match self.nodes.pop() {
            Some(node) if self.nodes.is_empty() && self.kind != Kind::L2smChart => Ok(node.config),
            _ => Err(ConfigError::Foreign {
                path: path.to_owned(),
                kind: self.kind,
                reason: "it is of all nodes: `lpm config import --node NAME FILE` prints the \
                         configuration of one"
                    .to_owned(),
            }),
        }
    }
}

/// What both systems' files have in common: they only probe, and ask no API server.
fn base() -> Config {
    let mut config = Config {
        role: Role::Prober,
        ..Config::default()
    };
    config.identity.kubernetes.enabled = Enabled::Always(false);
    config
}

/// A port at all addresses of the machine, those of IPv4, too.
fn everywhere(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}
