//! Messages between agents: lines of JSON.

use std::{net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    identity::{Name, merge::Moved},
    mesh::MeshLine,
};

/// A line of the stream. It holds all names, or the changes since the last line, or nothing, which
/// means that nothing changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Version of the lines that one agent sends to another: 1.
    pub schema: u32,
    /// The node whose pods these are.
    pub node: Arc<str>,
    /// All names, which replace those of earlier lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<Vec<Named>>,
    /// Addresses that are new, or have another name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<Named>,
    /// Addresses that no pod of the node has any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<IpAddr>,
    /// Changed or gone addresses that had changed owners earlier, and since when.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moved: Vec<Moved>,
}

/// An address and the name of its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The address.
    pub address: IpAddr,
    /// Name of the owner.
    #[serde(flatten)]
    pub name: Arc<Name>,
}

impl MeshLine for Line {
    const SCHEMA: u32 = 1;

    fn schema(&self) -> u32 {
        self.schema
    }

    fn node(&self) -> &Arc<str> {
        &self.node
    }

    fn check(&self) -> Result<(), String> {
        super::limits::check(self)
    }
}

impl Line {
    /// Makes an empty line.
    pub(crate) fn of(node: &Arc<str>) -> Self {
        Self {
            schema: Self::SCHEMA,
            node: Arc::clone(node),
            ..Self::default()
        }
    }

    /// The line as it is sent: JSON and a line feed.
    pub(super) fn text(&self) -> Vec<u8> {
        // The line holds strings and numbers only, so this does not fail.
        let mut json = serde_json::to_vec(self).unwrap_or_default();
        json.push(b'\n');
        json
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::names_file::Kind;

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let name = Name {
            kind: Kind::Pod,
            namespace: Some("shop ✓".into()),
            labels: [("team".into(), "\"blue\"\n".into())].into(),
            ..Name::default()
        };
        let named = Named {
            address: [198, 18, 1, 2].into(),
            name: Arc::new(name),
        };
        let line = Line {
            all: Some(vec![named.clone()]),
            changed: vec![named],
            gone: vec!["fd00::1".parse().expect("an address")],
            moved: vec![Moved {
                address: [198, 18, 1, 3].into(),
                since: Some(std::time::SystemTime::UNIX_EPOCH),
            }],
            ..Line::of(&"n1".into())
        };
        let text = line.text();
        assert_eq!(text.split(|byte| *byte == b'\n').count(), 2, "one line");
        assert_eq!(serde_json::from_slice::<Line>(&text).expect("JSON"), line);
        let empty = Line::of(&"n1".into()).text();
        assert_eq!(empty, b"{\"schema\":1,\"node\":\"n1\"}\n");
    }
}
