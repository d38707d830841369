//! Which peers have living flows: the passive half's word for the verdicts of the active one.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    active::verdict::{Passive, PassiveLiveness},
    passive::{Flow, Model, flow::FlowIdentity},
};

/// What was seen of a peer is forgotten if nobody asks for it so long.
const FORGET: Duration = Duration::from_mins(1);

/// Most flows of a peer that are compared.
const FLOWS: usize = 4096;

/// Looks at the flow table. A flow is alive if its remote leg has a new round trip: then the peer has
/// answered something that this node sent.
#[derive(Debug)]
pub(super) struct FlowLiveness {
    model: Arc<Model>,
    peers: Mutex<BTreeMap<IpAddr, Peer>>,
}

/// What is known of a peer.
#[derive(Debug)]
struct Peer {
    looked: Instant,
    /// Number of round trips by flow, at the last look.
    samples: HashMap<FlowIdentity, u32>,
    /// A time after which there was a round trip.
    alive: Option<Instant>,
}

impl FlowLiveness {
    pub(super) fn new(model: Arc<Model>) -> Self {
        Self {
            model,
            peers: Mutex::default(),
        }
    }

    /// Round trips of each peer's flows, by flow.
    fn samples(&self, peers: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, HashMap<FlowIdentity, u32>> {
        let registry = self.model.registry();
        let names = registry.names();
        // Flows of a node's pods have its name.
        let nodes: BTreeMap<Arc<str>, IpAddr> = peers
            .iter()
            .filter_map(|peer| Some((registry.node_at(*peer)?, *peer)))
            .collect();
        let mut all: BTreeMap<IpAddr, HashMap<FlowIdentity, u32>> = BTreeMap::new();
        let tables = self.model.tables();
        for index in 0..tables.flow_count() {
            let flow = (tables.flow(index)).and_then(|entry| Flow::read(index, entry));
            let Some(flow) = flow.filter(|flow| flow.legs[0].samples > 0) else {
                continue;
            };
            let peer = if peers.contains(&flow.remote) {
                Some(flow.remote)
            } else if nodes.is_empty() {
                None
            } else {
                let name = names.lookup(flow.remote);
                name.and_then(|name| nodes.get(name.node.as_ref()?).copied())
            };
            if let Some(peer) = peer {
                let flows = all.entry(peer).or_default();
                if flows.len() < FLOWS {
                    flows.insert(flow.identity(), flow.legs[0].samples);
                }
            }
        }
        all
    }
}

impl PassiveLiveness for FlowLiveness {
    fn look(&self, peers: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, Passive> {
        let mut found = self.samples(peers);
        let now = Instant::now();
        let mut known = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        // A peer that was not asked for in between is looked at anew.
        known.retain(|_, peer| now < peer.looked + FORGET);
        let look = |peer: &IpAddr| {
            let samples = found.remove(peer).unwrap_or_default();
            let state = known.entry(*peer).or_insert_with(|| Peer {
                looked: now,
                samples: samples.clone(),
                alive: None,
            });
            (*peer, state.compare(samples, now))
        };
        peers.iter().map(look).collect()
    }
}

impl Peer {
    /// Compares with the look before.
    fn compare(&mut self, samples: HashMap<FlowIdentity, u32>, now: Instant) -> Passive {
        let is_new = |(flow, count): (&FlowIdentity, &u32)| self.samples.get(flow) != Some(count);
        if samples.iter().any(is_new) {
            // It was at any time since then.
            self.alive = Some(self.looked);
        }
        (self.samples, self.looked) = (samples, now);
        match self.alive {
            Some(then) => Passive::Alive(now.saturating_duration_since(then)),
            None => Passive::Silent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(fingerprint: u64) -> FlowIdentity {
        FlowIdentity {
            fingerprint,
            first_seen: 1,
        }
    }

    #[test]
    fn a_peer_lives_by_new_round_trips_only() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let counted = |count| HashMap::from([(flow(1), count)]);
        let mut peer = Peer {
            looked: begin,
            samples: counted(7),
            alive: None,
        };
        assert_eq!(peer.compare(counted(7), at(5)), Passive::Silent);
        let alive = |seconds| Passive::Alive(Duration::from_secs(seconds));
        // It was some time after the look before.
        assert_eq!(peer.compare(counted(8), at(6)), alive(1));
        assert_eq!(peer.compare(counted(8), at(16)), alive(11));
        // A flow that begins lives, and one that ends does not.
        let both = HashMap::from([(flow(1), 8), (flow(2), 1)]);
        assert_eq!(peer.compare(both, at(22)), alive(6));
        assert_eq!(peer.compare(counted(8), at(40)), alive(24));
    }
}
