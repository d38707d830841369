//! Ranges of the cluster itself: an address in one is never taken for an external one.
//!
//! Where nodes have pod ranges (`spec.podCIDRs`), Kubernetes reports them. On a flat network (Azure
//! CNI's), pods' addresses are of a subnet that no object names. Without these ranges a new pod's
//! address would be `external` until the API server reports the pod.

use std::sync::Arc;

use ipnet::IpNet;

use super::{Name, UNKNOWN, names_file::Kind};

/// The names of the ranges: each address belongs to an unknown pod.
#[must_use]
pub fn names(ranges: &[IpNet]) -> Vec<(IpNet, Arc<Name>)> {
    let name = unknown_pod();
    let ranges = ranges.iter().map(IpNet::trunc);
    ranges.map(|range| (range, Arc::clone(&name))).collect()
}

/// The name of an address that belongs to an unknown pod.
#[must_use]
pub fn unknown_pod() -> Arc<Name> {
    Arc::new(Name {
        kind: Kind::Pod,
        namespace: Some(UNKNOWN.into()),
        ..Name::default()
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::identity::{
        PrefixMap,
        external::{self, External},
        merge::{Change, Merge, Origin},
    };

    #[test]
    fn nobodys_address_in_the_cluster_is_unknown_and_not_external() {
        let range = |text: &str| text.parse::<IpNet>().expect("a range");
        let external = [
            ("0.0.0.0/0", "internet"),
            ("198.18.7.0/24", "databases"),
            ("fd00:2::/64", "partner"),
        ];
        let external = external.map(|(cidr, name)| External {
            cidr: range(cidr),
            name: name.to_owned(),
        });
        let within = ["198.18.3.9/16", "fd00:1::/64", "fd00:2::/64"].map(range);
        let mut merge = Merge::default();
        let mut all = merge.replace(Origin::Within, names(&within));
        all.extend(merge.replace(Origin::External, external::names(&external)));
        all.extend(merge.apply(Change {
            origin: Origin::Pod,
            range: range("198.18.0.9/32"),
            name: Some(Arc::new(Name {
                namespace: Some("shop".into()),
                ..Name::default()
            })),
        }));
        let mut now = PrefixMap::default();
        for (range, name) in all {
            now.insert(range, name.expect("a name"));
        }
        for (address, who) in [
            ("198.18.0.9", "Pod shop"),
            ("198.18.0.8", "Pod unknown"),
            ("198.18.7.1", "External databases"),
            ("198.19.0.1", "External internet"),
            ("fd00:1::1", "Pod unknown"),
            ("fd00:2::1", "External partner"),
        ] {
            let name = now.lookup(address.parse::<IpAddr>().expect("an address"));
            let name = name.expect(address);
            let namespace = name.namespace.as_deref().unwrap_or_default();
            assert_eq!(format!("{:?} {namespace}", name.kind), who, "{address}");
        }
    }
}
