//! Addresses of pods in further networks: which claims count, and whose an address is.
//!
//! A claim counts if the configuration permits it and the pod has a node. If two pods claim one
//! address, the earlier claim holds, so that nobody takes the name of a pod that is there already. A
//! pod that was asked to end gives way. Where two networks may use the same addresses, nobody can say
//! whose the address is: flows are not told apart by network.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use super::{address_owners::AddressOwners, intern::Interner, networks::Claim, objects::Pod};
use crate::identity::{
    claims::{Claims, Refusals, Refused},
    merge::Moved,
    permits::{Permits, Space},
};

/// Most addresses of all pods together that count, so that they do not fill the kernel's map of
/// names.
pub(super) const MOST: usize = 1 << 14;

/// Most addresses of ended pods that are remembered.
const ENDLESS: usize = 4096;

/// The addresses that count, by pod.
#[derive(Debug, Default)]
pub(super) struct Outside {
    permits: Permits,
    pods: HashMap<u128, OfPod>,
    owners: AddressOwners,
    /// Number of addresses of all pods.
    counted: usize,
    refused: Refusals,
    /// Addresses of pods that are gone, where it is unknown since when.
    pub(super) endless: HashSet<IpAddr>,
}

/// What one pod claims.
#[derive(Debug, Default)]
struct OfPod {
    held: Box<[Held]>,
    refused: Refusals,
    /// True: the pod was asked to end.
    going: bool,
}

/// An address of a pod.
#[derive(Debug)]
struct Held {
    address: IpAddr,
    network: Arc<str>,
    space: Space,
}

/// The owner of an address in further networks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Holder<'a> {
    Nobody,
    /// The pod with this id, in this network.
    Pod(u128, &'a Arc<str>),
    /// Pods of several networks.
    Several,
}

impl Outside {
    pub(super) fn new(permits: Permits) -> Self {
        Self {
            permits,
            ..Self::default()
        }
    }

    /// Applies the current state of a pod, which has its `own` addresses in the cluster's network. Of
    /// a list: `listed` is when the pod began, in seconds. Returns the addresses that may have another
    /// owner now.
    pub(super) fn apply(
        &mut self,
        uid: u128,
        pod: &Pod,
        own: &[IpAddr],
        listed: Option<u64>,
        texts: &mut Interner,
    ) -> Vec<IpAddr> {
        let before = self.take(uid);
        let mut now = OfPod {
            going: pod.is_going(),
            ..OfPod::default()
        };
        if !pod.has_ended() {
            now.refused = pod.claimed.refused;
            self.admit(&mut now, pod, own, texts);
        }
        let mut touched: Vec<IpAddr> = now.held.iter().map(|held| held.address).collect();
        for address in &touched {
            self.owners.claim(*address, uid, listed);
        }
        for held in before.held {
            if !touched.contains(&held.address) {
                self.owners.release(held.address, uid);
                touched.push(held.address);
            }
        }
        self.counted += now.held.len();
        self.refused.join(&now.refused);
        if !now.held.is_empty() || !now.refused.is_empty() {
            self.pods.insert(uid, now);
        }
        touched
    }

    /// Takes a pod that is gone. Returns the addresses that may have another owner now.
    pub(super) fn remove(&mut self, uid: u128) -> Vec<IpAddr> {
        let gone = self.take(uid);
        let addresses: Vec<IpAddr> = gone.held.iter().map(|held| held.address).collect();
        for address in &addresses {
            self.owners.release(*address, uid);
        }
        addresses
    }

    /// The addresses of a pod that count.
    pub(super) fn addresses(&self, uid: u128) -> Vec<IpAddr> {
        let pod = self.pods.get(&uid);
        let held = pod.into_iter().flat_map(|pod| pod.held.iter());
        held.map(|held| held.address).collect()
    }

    /// The owner of an address in further networks.
    pub(super) fn holder(&self, address: IpAddr) -> Holder<'_> {
        let claims = || {
            let pods = self
                .owners
                .all(address)
                .filter_map(|uid| Some((uid, self.pods.get(&uid)?)));
            pods.filter_map(move |(uid, pod)| {
                let held = pod.held.iter().find(|held| held.address == address)?;
                Some((uid, pod.going, held))
            })
        };
        let all_go = claims().all(|(_, going, _)| going);
        let mut claims = claims().filter(|(_, going, _)| all_go || !going);
        match claims.next() {
            None => Holder::Nobody,
            Some((_, _, first)) if claims.any(|(_, _, held)| held.space != first.space) => {
                Holder::Several
            }
            Some((uid, _, held)) => Holder::Pod(uid, &held.network),
        }
    }

    /// True if a pod claims an address.
    pub(super) fn claims(&self, address: IpAddr, uid: u128) -> bool {
        self.owners.all(address).any(|claimant| claimant == uid)
    }

    /// True if the next claim to an address takes it from its owner.
    pub(super) fn is_free(&self, address: IpAddr) -> bool {
        match self.holder(address) {
            Holder::Pod(uid, _) => self.pods.get(&uid).is_some_and(|pod| pod.going),
            Holder::Nobody => self.endless.contains(&address),
            Holder::Several => false,
        }
    }

    /// The addresses that a pod claims and that are permitted.
    pub(super) fn permitted(&self, pod: &Pod) -> Vec<IpAddr> {
        if pod.node().is_none() {
            return Vec::new();
        }
        let all = pod.claimed.addresses.iter();
        let permitted = all.filter(|claim| self.space(claim).is_some());
        permitted.map(|claim| claim.address).collect()
    }

    /// Remembers addresses of ended pods, if it is unknown since when they are nobody's.
    pub(super) fn remember(&mut self, moved: &[Moved]) {
        remember(&mut self.endless, moved, ENDLESS);
    }

    /// The numbers of all pods' claims.
    pub(super) fn numbers(&self) -> Claims {
        Claims {
            counted: self.counted,
            contested: self.owners.contested(),
            refused: self.refused,
        }
    }

    /// The pods of whose claims some do not count.
    pub(super) fn refused(&self) -> impl Iterator<Item = (u128, &Refusals)> {
        let some = self.pods.iter().filter(|(_, pod)| !pod.refused.is_empty());
        some.map(|(uid, pod)| (*uid, &pod.refused))
    }

    fn space(&self, claim: &Claim) -> Option<Space> {
        self.permits
            .space(claim.address, &claim.status, &claim.name)
    }

    /// Sorts a pod's claims into those that count and those that do not.
    fn admit(&self, now: &mut OfPod, pod: &Pod, own: &[IpAddr], texts: &mut Interner) {
        let mut held = Vec::new();
        for claim in &pod.claimed.addresses {
            if own.contains(&claim.address) {
                continue;
            }
            let refused = match self.space(claim) {
                _ if pod.node().is_none() => Refused::NoNode,
                None => Refused::NotPermitted,
                Some(_) if self.counted + held.len() >= MOST => Refused::TooMany,
                Some(space) => {
                    held.push(Held {
                        address: claim.address,
                        network: texts.share(&claim.name),
                        space,
                    });
                    continue;
                }
            };
            now.refused.add(refused, 1);
        }
        now.held = held.into();
    }

    /// Takes a pod out of the numbers. Its claims to addresses stay.
    fn take(&mut self, uid: u128) -> OfPod {
        let taken = self.pods.remove(&uid).unwrap_or_default();
        self.counted -= taken.held.len();
        self.refused.part(&taken.refused);
        taken
    }
}

/// Remembers the addresses of ended pods in `endless`, where it is unknown since when they are
/// nobody's, and forgets those of which it is known. At most `most` are remembered.
pub(super) fn remember(endless: &mut HashSet<IpAddr>, moved: &[Moved], most: usize) {
    if endless.len() > most {
        endless.clear();
    }
    for moved in moved {
        match moved.since {
            Some(_) => endless.remove(&moved.address),
            None => endless.insert(moved.address),
        };
    }
}
