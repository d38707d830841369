//! Which addresses count that pods' annotations name: those of the networks that the configuration
//! permits (`identity.kubernetes.networks`).
//!
//! Whoever may create a pod may write any address into its annotations. So an annotation is a claim,
//! and not a fact: without a permission it counts for nothing.

use std::{collections::BTreeSet, fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    glob::{glob, is_pattern},
    text::LONGEST_NAME,
};

/// Most networks in the configuration.
const MOST: usize = 256;

/// A network of pods beside the cluster's own: by its name, its range, or both.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct Network {
    /// Name of the network: Multus' (`namespace/name`), or that in `l2sm/networks`. `*` matches any
    /// characters and `?` matches one. If absent: every name. An annotation may hold any name, so
    /// this alone keeps no pod from claiming an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// Range of the network's addresses. If several ranges contain an address, the one with the
    /// longest prefix decides. If absent: every address that no other source of names has a range
    /// for.
    #[serde(
        default,
        deserialize_with = "super::cidr::some",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>", regex(pattern = super::ranges::CIDR))]
    pub cidr: Option<IpNet>,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, self.cidr) {
            (Some(name), Some(cidr)) => write!(f, "{name} in {cidr}"),
            (Some(name), None) => f.write_str(name),
            (None, Some(cidr)) => cidr.fmt(f),
            (None, None) => f.write_str("{}"),
        }
    }
}

/// The first network that cannot work, and the remedy.
#[must_use]
pub fn wrong(networks: &[Network]) -> Option<(&Network, &'static str)> {
    let mut seen = BTreeSet::new();
    networks.iter().enumerate().find_map(|(place, network)| {
        let length = network.name.as_ref().map_or(1, String::len);
        if network.name.is_none() && network.cidr.is_none() {
            Some((network, "give its name, its cidr, or both"))
        } else if !(1..=LONGEST_NAME).contains(&length) {
            Some((network, "give a name of 1 to 253 bytes"))
        } else if !seen.insert(network) {
            Some((network, "the network is given twice: remove one of the two"))
        } else if place >= MOST {
            Some((network, "give at most 256 networks"))
        } else {
            None
        }
    })
}

/// The permitted networks. Empty: no annotation counts.
#[derive(Clone, Debug, Default)]
pub struct Permits(Arc<[Network]>);

/// Addresses of which each is one pod's at a time. Two pods with one address in one space contradict
/// each other. In two spaces both may be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    /// Place of the network in the configuration.
    entry: usize,
    /// The network's name, if the configuration has a pattern for several networks.
    network: Option<Arc<str>>,
}

impl Permits {
    /// Permits these networks.
    #[must_use]
    pub fn new(networks: &[Network]) -> Self {
        Self(networks.into())
    }

    /// Length of the longest permitted range that contains an address; 0 where only names are
    /// permitted. Whoever names a range within that one knows more of the address than a claim.
    pub(crate) fn floor(&self, address: IpAddr) -> u8 {
        let fit = self.0.iter().filter_map(|network| network.cidr);
        let fit = fit.filter(|cidr| cidr.contains(&address));
        fit.map(|cidr| cidr.prefix_len()).max().unwrap_or(0)
    }

    /// The space of an address that an annotation names in a network, which Multus calls `status`
    /// and people `name`. None: the claim does not count.
    pub(crate) fn space(&self, address: IpAddr, status: &str, name: &Arc<str>) -> Option<Space> {
        let fits = |network: &Network| network.cidr.is_none_or(|cidr| cidr.contains(&address));
        let length = |network: &Network| network.cidr.map(|cidr| cidr.prefix_len());
        let all = || self.0.iter().enumerate().filter(|(_, one)| fits(one));
        let longest = all().map(|(_, one)| length(one)).max()?;
        let mut decide = all().filter(|(_, one)| length(one) == longest);
        let (entry, network) = decide.find(|(_, one)| {
            let pattern = one.name.as_deref();
            pattern.is_none_or(|pattern| glob(pattern, status) || glob(pattern, name))
        })?;
        let several = network.name.as_deref().is_some_and(is_pattern);
        Some(Space {
            entry,
            network: several.then(|| Arc::clone(name)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(name: Option<&str>, cidr: Option<&str>) -> Network {
        Network {
            name: name.map(str::to_owned),
            cidr: cidr.map(|cidr| cidr.parse().expect("a range")),
        }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_longest_range_decides_by_its_name() {
        let permits = Permits::new(&[
            network(None, Some("198.18.0.0/15")),
            network(Some("blue"), Some("198.19.1.0/24")),
            network(Some("l2sm-system/*"), Some("198.19.2.0/24")),
            network(Some("lab/x"), None),
        ]);
        let entry = |at: &str, status: &str, name: &str| {
            let space = permits.space(address(at), status, &name.into());
            space.map(|space| (space.entry, space.network.is_some()))
        };
        assert_eq!(entry("198.18.7.7", "any/thing", "thing"), Some((0, false)));
        assert_eq!(entry("198.19.1.7", "a/port", "blue"), Some((1, false)));
        assert_eq!(entry("198.19.1.7", "a/port", "green"), None);
        assert_eq!(
            entry("198.19.2.7", "l2sm-system/overlay-veth1", "red"),
            Some((2, true))
        );
        assert_eq!(entry("198.20.0.1", "lab/x", "lab/x"), Some((3, false)));
        assert_eq!(entry("198.20.0.1", "lab/y", "lab/y"), None);
        assert_eq!(permits.floor(address("198.19.1.7")), 24);
        assert_eq!(permits.floor(address("198.20.0.1")), 0);
        assert_eq!(
            Permits::default().space(address("198.18.0.1"), "a", &"a".into()),
            None
        );
    }

    #[test]
    fn what_cannot_work_is_found() {
        let good = network(Some("blue"), None);
        assert_eq!(wrong(std::slice::from_ref(&good)), None);
        for (bad, word) in [
            (network(None, None), "its name"),
            (network(Some(""), None), "1 to 253"),
            (good.clone(), "twice"),
        ] {
            let both = [good.clone(), bad];
            let (_, remedy) = wrong(&both).expect(word);
            assert!(remedy.contains(word), "{remedy}");
        }
    }
}
