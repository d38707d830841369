//! Merges several sources of names into one.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::SystemTime,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Name, permits::Permits, registry::Zones};

/// Source of a name. Of two names for the same range, that of the earlier origin in this order
/// holds. Of two ranges the longer one holds, whatever its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// The node's own interfaces.
    Own,
    /// Addresses of Kubernetes nodes.
    Node,
    /// Addresses of pods in the cluster's network.
    Pod,
    /// Addresses of pods on other nodes, from the agents there.
    Peer,
    /// Virtual and external addresses of services.
    Service,
    /// All addresses, while Kubernetes has not answered: an address without a name is not known to
    /// be external.
    Waiting,
    /// The static names file.
    File,
    /// Ranges that the configuration names.
    External,
    /// Addresses of pods in other networks (L2S-M, Multus), which pods' annotations claim. A range
    /// around the address goes before it, too, if it is at least as long as the range in which the
    /// configuration permits the claim.
    Overlay,
    /// Ranges of the cluster itself, from the configuration.
    Within,
    /// Conclusions from other facts: an address without a pod, in a node's pod range, belongs to an
    /// unknown pod.
    Derived,
}

impl Origin {
    const ALL: [Self; 11] = [
        Self::Own,
        Self::Node,
        Self::Pod,
        Self::Peer,
        Self::Service,
        Self::Waiting,
        Self::File,
        Self::External,
        Self::Overlay,
        Self::Within,
        Self::Derived,
    ];
}

/// A source's name for a range. None: the source has no name for it any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Source of the name.
    pub origin: Origin,
    /// The range. A single address has all its bits.
    pub range: IpNet,
    /// Name of the range.
    pub name: Option<Arc<Name>>,
}

/// An address that had changed owners before the event about it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// The address.
    pub address: IpAddr,
    /// Time from which, at the latest, the address did not belong to its former owner any more.
    /// None: unknown until the next owner's beginning is known.
    pub since: Option<SystemTime>,
}

/// A message of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Addresses whose change of owners is reported late, by the changes that follow.
    Moved(Vec<Moved>),
    /// Names have changed.
    Changes(Vec<Change>),
    /// The source has sent all its names. Names that an earlier agent left in the kernel, and that
    /// nobody has sent again, do not hold any more.
    Complete,
}

/// A change for those who look up names.
pub type Delta = (IpNet, Option<Arc<Name>>);

/// Sources whose ranges go before claims within them.
const BEFORE_CLAIMS: [Origin; 4] = [
    Origin::File,
    Origin::External,
    Origin::Within,
    Origin::Derived,
];

/// The names of each source, and the names that hold.
#[derive(Debug, Default)]
pub struct Merge {
    said: [HashMap<IpNet, Arc<Name>>; Origin::ALL.len()],
    permits: Permits,
    /// Claims that give way to another source.
    outranked: HashSet<IpNet>,
    /// True: a node's name that has a zone has changed since the zones were last taken.
    moved: bool,
}

impl Merge {
    /// Starts without names. Claims of pods' annotations were permitted by these networks.
    #[must_use]
    pub fn permitting(permits: Permits) -> Self {
        Self {
            permits,
            ..Self::default()
        }
    }

    /// Number of claims that give way to another source.
    #[must_use]
    pub fn outranked(&self) -> usize {
        self.outranked.len()
    }

    /// Applies a source's change. Returns the changes of the names that hold: that of the range, and
    /// those of claims within it.
    pub fn apply(&mut self, change: Change) -> Vec<Delta> {
        let Change {
            origin,
            range,
            name,
        } = change;
        let range = range.trunc();
        let mut touched = self.claims_within(origin, range);
        touched.push(range);
        let before: Vec<_> = touched
            .iter()
            .map(|one| self.holds(*one).cloned())
            .collect();
        let said = &mut self.said[origin as usize];
        let has_zone = |name: Option<&Arc<Name>>| name.is_some_and(|name| name.zone.is_some());
        let has_it_now = has_zone(name.as_ref());
        let was = match name {
            Some(name) => said.insert(range, name),
            None => said.remove(&range),
        };
        self.moved |= has_it_now || has_zone(was.as_ref());
        let both = touched.into_iter().zip(before);
        both.filter_map(|(range, before)| {
            let after = self.holds(range).cloned();
            self.note_claim(range, after.as_ref());
            (before != after).then_some((range, after))
        })
        .collect()
    }

    /// The zones of all nodes, if any may have changed since the last call. A node's zone is what
    /// its names say, whatever source names its address: this node's own addresses have no zone. The
    /// Kubernetes node goes before the names file.
    pub fn take_zones(&mut self) -> Option<Zones> {
        if !std::mem::take(&mut self.moved) {
            return None;
        }
        let sources = [Origin::File, Origin::Node].map(|origin| &self.said[origin as usize]);
        let names = sources.into_iter().flat_map(HashMap::values);
        let zones = names.filter_map(|name| Some((name.node.clone()?, name.zone.clone()?)));
        Some(zones.collect())
    }

    /// Replaces all names of a source. Its old names that are not among the new ones are removed.
    pub fn replace(&mut self, origin: Origin, names: Vec<(IpNet, Arc<Name>)>) -> Vec<Delta> {
        let names: HashMap<IpNet, Arc<Name>> = names.into_iter().collect();
        let gone: Vec<IpNet> = self.said[origin as usize]
            .keys()
            .filter(|range| !names.contains_key(*range))
            .copied()
            .collect();
        let gone = gone.into_iter().map(|range| (range, None));
        let said = names.into_iter().map(|(range, name)| (range, Some(name)));
        gone.chain(said)
            .flat_map(|(range, name)| {
                self.apply(Change {
                    origin,
                    range,
                    name,
                })
            })
            .collect()
    }

    fn holds(&self, range: IpNet) -> Option<&Arc<Name>> {
        Origin::ALL.into_iter().find_map(|origin| {
            let name = self.said[origin as usize].get(&range)?;
            let holds = origin != Origin::Overlay || !self.is_outranked(range);
            holds.then_some(name)
        })
    }

    /// The claims that a source's range contains.
    fn claims_within(&self, origin: Origin, range: IpNet) -> Vec<IpNet> {
        let is_one = range.prefix_len() == range.max_prefix_len();
        if is_one || !BEFORE_CLAIMS.contains(&origin) {
            return Vec::new();
        }
        let claims = self.said[Origin::Overlay as usize].keys();
        claims
            .filter(|claim| range.contains(*claim))
            .copied()
            .collect()
    }

    /// True if a range that goes before a claim contains it. A range of the cluster does so only if
    /// it is longer than the permitted one, which the configuration gives, too.
    fn is_outranked(&self, claim: IpNet) -> bool {
        let floor = self.permits.floor(claim.addr());
        (floor..=claim.prefix_len()).any(|length| {
            let Ok(range) = IpNet::new(claim.addr(), length) else {
                return false;
            };
            let range = range.trunc();
            BEFORE_CLAIMS.into_iter().any(|origin| {
                let counts = origin != Origin::Within || length > floor;
                counts && self.said[origin as usize].contains_key(&range)
            })
        })
    }

    /// Keeps the set of claims that give way.
    fn note_claim(&mut self, range: IpNet, holds: Option<&Arc<Name>>) {
        let claim = self.said[Origin::Overlay as usize].get(&range);
        if claim.is_some() && claim != holds {
            self.outranked.insert(range);
        } else {
            self.outranked.remove(&range);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(origin: Origin, range: &str, namespace: Option<&str>) -> Change {
        Change {
            origin,
            range: range.parse().expect("a range"),
            name: namespace.map(|namespace| {
                Arc::new(Name {
                    namespace: Some(namespace.into()),
                    ..Name::default()
                })
            }),
        }
    }

    fn namespace(delta: &[Delta]) -> Option<String> {
        let [(_, name)] = delta else {
            panic!("one change");
        };
        let name = name.as_ref();
        Some(name?.namespace.as_deref()?.to_owned())
    }

    #[test]
    fn the_earlier_origin_holds() {
        let mut merge = Merge::default();
        for (index, origin) in Origin::ALL.into_iter().enumerate() {
            assert_eq!(origin as usize, index);
        }
        let range = "198.18.0.1/32";
        let delta = merge.apply(change(Origin::File, range, Some("file")));
        assert_eq!(namespace(&delta).as_deref(), Some("file"));
        let delta = merge.apply(change(Origin::Derived, range, Some("unknown")));
        assert_eq!(delta, [], "the file's still holds");
        let delta = merge.apply(change(Origin::Pod, range, Some("pod")));
        assert_eq!(namespace(&delta).as_deref(), Some("pod"));
        let delta = merge.apply(change(Origin::Pod, range, None));
        assert_eq!(namespace(&delta).as_deref(), Some("file"));
        let delta = merge.apply(change(Origin::File, range, None));
        assert_eq!(namespace(&delta).as_deref(), Some("unknown"));
        let delta = merge.apply(change(Origin::Derived, range, None));
        assert_eq!(namespace(&delta), None);
    }

    #[test]
    fn what_is_said_again_changes_nothing() {
        let mut merge = Merge::default();
        let said = change(Origin::Pod, "198.18.0.1/32", Some("a"));
        assert_eq!(merge.apply(said.clone()).len(), 1);
        assert_eq!(merge.apply(said), []);
    }

    #[test]
    fn a_nodes_zone_is_known_whoever_names_its_address() {
        let mut merge = Merge::default();
        let of = |origin, zone: Option<&str>| Change {
            origin,
            range: "198.18.0.1/32".parse().expect("a range"),
            name: Some(Arc::new(Name {
                node: Some("n1".into()),
                zone: zone.map(Into::into),
                ..Name::default()
            })),
        };
        merge.apply(of(Origin::Own, None));
        assert_eq!(merge.take_zones(), None, "nothing was said of zones");
        let zones = |merge: &mut Merge| {
            let zones = merge.take_zones()?.into_iter();
            let text = zones.map(|(node, zone)| format!("{node} in {zone}"));
            Some(text.collect::<Vec<_>>())
        };
        let is = |zone: &str| Some(vec![format!("n1 in {zone}")]);
        merge.apply(of(Origin::File, Some("file")));
        assert_eq!(zones(&mut merge), is("file"));
        assert_eq!(merge.apply(of(Origin::Node, Some("west"))), [], "its own");
        assert_eq!(zones(&mut merge), is("west"));
        assert_eq!(zones(&mut merge), None, "nothing has changed since");
        // The label goes, then the node.
        merge.apply(of(Origin::Node, None));
        assert_eq!(zones(&mut merge), is("file"));
        merge.apply(Change {
            name: None,
            ..of(Origin::File, None)
        });
        assert_eq!(zones(&mut merge), Some(Vec::new()));
    }

    #[test]
    fn a_source_is_replaced_as_a_whole() {
        let mut merge = Merge::default();
        let named = |range, namespace| {
            let change = change(Origin::File, range, Some(namespace));
            (change.range, change.name.expect("a name"))
        };
        let first = vec![
            named("198.18.0.0/24", "a"),
            named("198.18.1.0/24", "b"),
            named("198.18.2.0/24", "c"),
        ];
        assert_eq!(merge.replace(Origin::File, first).len(), 3);
        let second = vec![named("198.18.0.0/24", "a"), named("198.18.1.0/24", "x")];
        let mut deltas = merge.replace(Origin::File, second);
        deltas.sort_by_key(|(range, _)| *range);
        let text = |delta: &Delta| (delta.0.to_string(), delta.1.is_some());
        let deltas: Vec<_> = deltas.iter().map(text).collect();
        assert_eq!(
            deltas,
            [
                ("198.18.1.0/24".to_owned(), true),
                ("198.18.2.0/24".to_owned(), false)
            ]
        );
    }
}
