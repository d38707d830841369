//! The static names file, and the type of a name.

use std::{
    collections::{BTreeMap, HashMap},
    fmt, fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use ipnet::IpNet;
use lpm_common::layout::PeerKind;
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, SeqAccess, Visitor},
};
use serde_saphyr::Spanned;
use thiserror::Error;

use super::HOST;
pub use super::ranges::{PrefixMap, bits};
use crate::{text::LONGEST_NAME, yaml};

/// The owner of an address or a range. Names share texts that many of them have (namespaces,
/// nodes): a cluster has 100,000 names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    /// Kind of the owner: `pod`, `node`, `service` or `external`.
    pub kind: Kind,
    /// Kubernetes namespace. Of an external range: the name that the configuration gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Arc<str>>,
    /// Name of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Arc<str>>,
    /// Workload that owns the pod: a deployment, a job. A pod without owner is its own workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Arc<str>>,
    /// Kind of the workload, as kubernetes-mixin calls it: `deployment`, `barepod`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_type: Option<Arc<str>>,
    /// Name of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Arc<str>>,
    /// Name of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Arc<str>>,
    /// Zone of the node, if this is a node's name. It is told to no other agent.
    #[serde(skip)]
    pub zone: Option<Arc<str>>,
    /// Name of the further network that the address is of: an L2S-M or Multus network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Arc<str>>,
    /// Labels of the pod that the configuration asks for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// True: the address is this node's own.
    #[serde(skip)]
    pub own: bool,
}

/// The name of one of the node's own addresses. It is that of a file's entry for exactly this
/// address, else [`HOST`] and the node.
#[must_use]
pub fn own(file: &PrefixMap, address: IpAddr, node: Option<&Arc<str>>) -> Name {
    let host = || Name {
        kind: Kind::Node,
        namespace: Some(HOST.into()),
        node: node.cloned(),
        ..Name::default()
    };
    Name {
        own: true,
        ..file
            .exact(address)
            .map_or_else(host, |name| (**name).clone())
    }
}

/// Kind of the object that has a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A pod that services may select.
    #[default]
    Pod,
    /// A node.
    Node,
    /// The virtual address of a service.
    Service,
    /// A range outside of the cluster that has been given a name.
    External,
}

impl From<Kind> for PeerKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Pod => Self::Pod,
            Kind::Node => Self::Node,
            Kind::Service => Self::Service,
            Kind::External => Self::External,
        }
    }
}

/// One entry of the names file: an address or a range, and its owner.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// One address; give this or `cidr`.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    address: Option<IpAddr>,
    /// A range, such as `198.18.5.0/24`. If several ranges contain an address, the one with the
    /// longest prefix names it.
    #[serde(default, deserialize_with = "super::cidr::some")]
    #[schemars(with = "Option<String>")]
    cidr: Option<IpNet>,
    /// What has the address. Default: a service if only `service` is given, a node if only `node`
    /// is given, else a pod.
    #[serde(default)]
    kind: Option<Kind>,
    /// Kubernetes namespace.
    #[serde(default)]
    namespace: Option<String>,
    /// Name of the pod.
    #[serde(default)]
    pod: Option<String>,
    /// Owner of the pod, such as a Deployment or a Job.
    #[serde(default)]
    workload: Option<String>,
    /// Name of the service.
    #[serde(default)]
    service: Option<String>,
    /// Name of the node.
    #[serde(default)]
    node: Option<String>,
    /// Zone of the node. Only an entry of kind `node` has one.
    #[serde(default)]
    zone: Option<String>,
}

/// Most entries of a names file: as many as the kernel's map of names holds.
pub const MOST: usize = 1 << 16;

/// Keys and values of an entry.
const NODES: usize = 16;

/// The entries of a names file.
struct Entries(Vec<Spanned<Entry>>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a list of entries")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Entries, S::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = list.next_element::<Spanned<Entry>>()? {
            if entries.len() == MOST {
                let line = entry.referenced.line();
                return Err(S::Error::custom(format!(
                    "line {line} has entry {}, and the kernel's map holds {MOST}: join addresses \
                     with one owner to ranges (`cidr`)",
                    MOST + 1
                )));
            }
            entries.push(entry);
        }
        Ok(Entries(entries))
    }
}

impl Entry {
    /// The first text that is longer than a name may be, by its key.
    fn too_long(&self) -> Option<&'static str> {
        let texts = [
            ("namespace", &self.namespace),
            ("pod", &self.pod),
            ("workload", &self.workload),
            ("service", &self.service),
            ("node", &self.node),
            ("zone", &self.zone),
        ];
        let is_long = |text: &Option<String>| text.as_ref().is_some_and(|t| t.len() > LONGEST_NAME);
        let (key, _) = texts.into_iter().find(|(_, text)| is_long(text))?;
        Some(key)
    }

    fn kind(&self) -> Kind {
        self.kind.unwrap_or(
            match (&self.pod, &self.workload, &self.service, &self.node) {
                (None, None, Some(_), _) => Kind::Service,
                (None, None, None, Some(_)) if self.namespace.is_none() => Kind::Node,
                _ => Kind::Pod,
            },
        )
    }

    fn range(&self) -> Result<IpNet, &'static str> {
        match (self.address, self.cidr) {
            (Some(address), None) => Ok(IpNet::from(address)),
            (None, Some(range)) => Ok(range.trunc()),
            (Some(_), Some(_)) => Err("both `address` and `cidr` are given: remove one"),
            (None, None) => Err("neither `address` nor `cidr` is given: add one"),
        }
    }
}

/// The JSON schema of the names file.
#[must_use]
pub fn schema() -> schemars::Schema {
    schemars::schema_for!(Vec<Entry>)
}

/// Why a names file cannot be used.
#[derive(Debug, Error)]
pub enum NamesError {
    /// The file cannot be read.
    #[error("cannot read the names file {path}: {source}; check the path and its permissions")]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file does not have the form of a names file.
    #[error(
        "names file {path}: {reason}\neach entry needs `address` or `cidr`, and the names of its \
         owner; `lpm config schema --names` prints the format"
    )]
    Parse {
        /// Path of the file.
        path: PathBuf,
        /// The error, with line and column.
        reason: String,
    },
    /// One entry contradicts itself or another one.
    #[error("names file {path}, line {line}: {reason}")]
    Entry {
        /// Path of the file.
        path: PathBuf,
        /// Line of the entry.
        line: u64,
        /// The error and its remedy.
        reason: String,
    },
}

impl PrefixMap {
    /// Reads a names file.
    pub fn read(path: &Path) -> Result<Self, NamesError> {
        let text = fs::read_to_string(path).map_err(|source| NamesError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Parses the text of a names file; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, NamesError> {
        let mut names = Self::default();
        if text
            .lines()
            .all(|line| line.trim().is_empty() || line.starts_with('#'))
        {
            return Ok(names);
        }
        let read = yaml::read_list(text, MOST, NODES);
        let Entries(entries) = read.map_err(|reason| NamesError::Parse {
            path: path.to_owned(),
            reason,
        })?;
        let mut lines = HashMap::new();
        for Spanned {
            value: entry,
            referenced,
            ..
        } in entries
        {
            let line = referenced.line();
            let wrong = |reason: String| NamesError::Entry {
                path: path.to_owned(),
                line,
                reason,
            };
            if let Some(key) = entry.too_long() {
                return Err(wrong(format!(
                    "`{key}` is longer than {LONGEST_NAME} bytes: shorten it"
                )));
            }
            let range = entry.range().map_err(|reason| wrong(reason.to_owned()))?;
            if let Some(first) = lines.insert(range, line) {
                return Err(wrong(format!(
                    "{range} is listed already, on line {first}: remove one of the two"
                )));
            }
            let kind = entry.kind();
            if entry.zone.is_some() && (kind != Kind::Node || entry.node.is_none()) {
                return Err(wrong(
                    "`zone` is given, which only a node has: give it with the address of the node, \
                     its name (`node`) and `kind: node`"
                        .to_owned(),
                ));
            }
            let Entry {
                namespace,
                pod,
                workload,
                service,
                node,
                zone,
                ..
            } = entry;
            let shared = |text: Option<String>| text.map(Arc::from);
            let name = Name {
                kind,
                namespace: shared(namespace),
                pod: shared(pod),
                workload: shared(workload),
                service: shared(service),
                node: shared(node),
                zone: shared(zone),
                ..Name::default()
            };
            names.insert(range, Arc::new(name));
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests;
