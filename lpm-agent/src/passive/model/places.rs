//! Round trips by node and by zone of both ends, over all namespaces, where these levels are switched
//! on.
//!
//! A remote end outside of the cluster has no node, and is in no such series. A remote end in the
//! cluster whose node is not known is counted as [`UNKNOWN`].

use std::sync::Arc;

use lpm_common::layout::{Echo, Leg, NameValue, PairKey, PeerKind};

use super::{Counts, Model, OVERFLOW, UNKNOWN, is_counted_once, levels::By};
use crate::identity::{Member, ids::is_gone};

/// The nodes at both ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeLabels {
    /// Name of this node, on which the local end is.
    pub node: Arc<str>,
    /// Name of the remote end's node. [`UNKNOWN`]: not known. [`OVERFLOW`]: not told apart.
    pub peer_node: Arc<str>,
}

/// The zones at both ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ZoneLabels {
    /// Name of this node's zone at the time of the round trips. [`UNKNOWN`] and [`OVERFLOW`] as in
    /// [`NodeLabels::peer_node`].
    pub zone: Arc<str>,
    /// Name of the remote end's zone.
    pub peer_zone: Arc<str>,
}

/// The round trips by nodes and by zones.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Round trips by node.
    pub nodes: By<NodeLabels>,
    /// Round trips by zone.
    pub zones: By<ZoneLabels>,
}

impl Places {
    /// Adds a histogram of a row that has these labels.
    pub(super) fn add(&mut self, of: &PlaceLabels, leg: Leg, echo: Echo, counts: &Counts) {
        if let Some(nodes) = of.nodes.clone() {
            self.nodes
                .entry((nodes, leg, echo))
                .or_default()
                .add(counts);
        }
        if let Some(zones) = of.zones.clone() {
            self.zones
                .entry((zones, leg, echo))
                .or_default()
                .add(counts);
        }
    }
}

/// Nodes and zones of a row. None: the level is off, an end has no such place, or it is gone.
#[derive(Clone, Debug, Default)]
pub(super) struct PlaceLabels {
    nodes: Option<NodeLabels>,
    zones: Option<ZoneLabels>,
}

impl PlaceLabels {
    /// The labels of the row with this label set. `pair` None: the overflow row.
    pub(super) fn of(model: &Model, pair: Option<PairKey>) -> Self {
        let levels = model.ids.levels();
        if !levels.has_places() || pair.is_some_and(|pair| !is_counted_once(pair)) {
            return Self::default();
        }
        let (local, remote) = (pair.map(PairKey::local), pair.map(PairKey::remote));
        let unknown = || Arc::from(UNKNOWN);
        let node = |of: &Member| of.node.clone();
        let zone = |of: &Member| of.zone.clone();
        let peer_node = levels.node.then(|| place(model, remote, false, node));
        let zones = levels.zone.then(|| {
            let [zone, peer_zone] =
                [(local, true), (remote, false)].map(|(end, here)| place(model, end, here, zone));
            Some((zone?, peer_zone?))
        });
        Self {
            nodes: peer_node.flatten().map(|peer_node| NodeLabels {
                node: model.registry().node().cloned().unwrap_or_else(unknown),
                peer_node,
            }),
            zones: (zones.flatten()).map(|(zone, peer_zone)| ZoneLabels { zone, peer_zone }),
        }
    }
}

/// The place of an end. None: it has none, or the place is gone. `here`: it is the local end, which
/// is always on this node.
fn place(
    model: &Model,
    end: Option<NameValue>,
    here: bool,
    of: impl Fn(&Member) -> Option<Arc<str>>,
) -> Option<Arc<str>> {
    let Some(end) = end else {
        return Some(OVERFLOW.into());
    };
    let kind = PeerKind::from_raw(end.kind);
    if !here && kind.is_none_or(|kind| kind == PeerKind::External) {
        return None;
    }
    let member = model.ids.member(end.id);
    match member.as_deref().and_then(of) {
        Some(gone) if is_gone(Some(&gone)) => None,
        Some(place) => Some(place),
        None if end.id.namespace() == 0 => Some(UNKNOWN.into()),
        None => Some(OVERFLOW.into()),
    }
}

#[cfg(test)]
mod tests;
