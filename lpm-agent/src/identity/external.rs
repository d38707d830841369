//! Ranges outside of the cluster that the configuration names: `internet`, `azure`, `office`.

use std::{collections::BTreeSet, sync::Arc};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Name, names_file::Kind};
use crate::text::LONGEST_NAME;

/// A range and its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct External {
    /// The range, such as `0.0.0.0/0`. If several ranges contain an address, the one with the
    /// longest prefix names it.
    #[schemars(with = "String", regex(pattern = super::ranges::CIDR))]
    #[serde(deserialize_with = "super::cidr::one")]
    pub cidr: IpNet,
    /// Name of the range: the value of the label `peer_namespace`, beside `peer_kind="external"`.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The names of the ranges.
#[must_use]
pub fn names(ranges: &[External]) -> Vec<(IpNet, Arc<Name>)> {
    let name = |external: &External| {
        let name = Name {
            kind: Kind::External,
            namespace: Some(external.name.as_str().into()),
            ..Name::default()
        };
        (external.cidr.trunc(), Arc::new(name))
    };
    ranges.iter().map(name).collect()
}

/// The first range that is there twice, or has no name.
#[must_use]
pub fn wrong(ranges: &[External]) -> Option<(&External, &'static str)> {
    let mut seen = BTreeSet::new();
    ranges.iter().find_map(|external| {
        if external.name.is_empty() {
            return Some((external, "give it a name"));
        }
        if external.name.len() > LONGEST_NAME {
            return Some((external, "give it a name of at most 253 bytes"));
        }
        let twice = !seen.insert(external.cidr.trunc());
        twice.then_some((external, "the range is given twice: remove one of the two"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(cidr: &str, name: &str) -> External {
        External {
            cidr: cidr.parse().expect("a range"),
            name: name.to_owned(),
        }
    }

    #[test]
    fn ranges_are_named_as_external() {
        let names = names(&[range("198.18.7.7/16", "azure")]);
        assert_eq!(names[0].0.to_string(), "198.18.0.0/16");
        assert_eq!(names[0].1.kind, Kind::External);
        assert_eq!(names[0].1.namespace.as_deref(), Some("azure"));
    }

    #[test]
    fn the_same_range_twice_is_refused() {
        let ranges = [
            range("0.0.0.0/0", "internet"),
            range("198.18.0.0/16", "azure"),
            range("198.18.3.0/16", "office"),
        ];
        assert!(wrong(&ranges[..2]).is_none());
        let (which, why) = wrong(&ranges).expect("twice");
        assert_eq!(which.name, "office");
        assert!(why.contains("twice"));
        assert!(wrong(&[range("0.0.0.0/0", "")]).is_some());
        let (_, why) = wrong(&[range("0.0.0.0/0", &"x".repeat(254))]).expect("too long");
        assert!(why.contains("253"));
    }
}
