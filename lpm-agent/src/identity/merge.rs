//! Merges several sources of names into one.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::SystemTime};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Name;

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
    /// Addresses of pods in other networks (L2S-M, Multus).
    Overlay,
    /// All addresses, while Kubernetes has not answered: an address without a name is not known to
    /// be external.
    Waiting,
    /// The static names file.
    File,
    /// Ranges that the configuration names.
    External,
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
        Self::Overlay,
        Self::Waiting,
        Self::File,
        Self::External,
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

/// The names of each source, and the names that hold.
#[derive(Debug, Default)]
pub struct Merge {
    said: [HashMap<IpNet, Arc<Name>>; Origin::ALL.len()],
}

impl Merge {
    /// Applies a source's change. Returns the change of the name that holds, if there is one.
    pub fn apply(&mut self, change: Change) -> Option<Delta> {
        let Change {
            origin,
            range,
            name,
        } = change;
        let range = range.trunc();
        let before = self.holds(range).cloned();
        let said = &mut self.said[origin as usize];
        match name {
            Some(name) => said.insert(range, name),
            None => said.remove(&range),
        };
        let after = self.holds(range).cloned();
        (before != after).then_some((range, after))
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
            .filter_map(|(range, name)| {
                self.apply(Change {
                    origin,
                    range,
                    name,
                })
            })
            .collect()
    }

    fn holds(&self, range: IpNet) -> Option<&Arc<Name>> {
        self.said.iter().find_map(|said| said.get(&range))
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

    fn namespace(delta: Option<Delta>) -> Option<String> {
        let (_, name) = delta.expect("a change");
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
        assert_eq!(namespace(delta).as_deref(), Some("file"));
        let delta = merge.apply(change(Origin::Derived, range, Some("unknown")));
        assert_eq!(delta, None, "the file's still holds");
        let delta = merge.apply(change(Origin::Pod, range, Some("pod")));
        assert_eq!(namespace(delta).as_deref(), Some("pod"));
        let delta = merge.apply(change(Origin::Pod, range, None));
        assert_eq!(namespace(delta).as_deref(), Some("file"));
        let delta = merge.apply(change(Origin::File, range, None));
        assert_eq!(namespace(delta).as_deref(), Some("unknown"));
        let delta = merge.apply(change(Origin::Derived, range, None));
        assert_eq!(namespace(delta), None);
    }

    #[test]
    fn what_is_said_again_changes_nothing() {
        let mut merge = Merge::default();
        let said = change(Origin::Pod, "198.18.0.1/32", Some("a"));
        assert!(merge.apply(said.clone()).is_some());
        assert_eq!(merge.apply(said), None);
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
