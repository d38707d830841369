//! Services: their own addresses, and the addresses behind them.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use super::{
    address_owners::AddressOwners,
    intern::Interner,
    objects::{EndpointSlice, Service},
    pods::Backend,
};
use crate::identity::{
    Name,
    merge::{Change, Origin},
    names_file::Kind,
};

/// Label of an endpoint slice: the name of its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Label of the slices of a service without an address of its own.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// All services.
#[derive(Debug, Default)]
pub(super) struct Services {
    known: HashMap<u128, (Arc<Name>, Vec<IpAddr>)>,
    claims: AddressOwners,
}

impl Services {
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn uids(&self) -> impl Iterator<Item = u128> {
        self.known.keys().copied()
    }

    pub(super) fn apply(
        &mut self,
        uid: u128,
        service: &Service,
        texts: &mut Interner,
        out: &mut Vec<Change>,
    ) {
        let mut share = |text: &Option<String>| text.as_deref().map(|text| texts.share(text));
        let name = Name {
            kind: Kind::Service,
            namespace: share(&service.metadata.namespace),
            service: share(&service.metadata.name),
            ..Name::default()
        };
        let now = addresses(service);
        for address in &now {
            self.claims.claim(*address, uid, None);
        }
        let mut touched = now.clone();
        if let Some((_, before)) = self.known.insert(uid, (Arc::new(name), now)) {
            for address in before {
                if !touched.contains(&address) {
                    self.claims.release(address, uid);
                    touched.push(address);
                }
            }
        }
        self.say(&touched, out);
    }

    pub(super) fn remove(&mut self, uid: u128, out: &mut Vec<Change>) {
        let Some((_, addresses)) = self.known.remove(&uid) else {
            return;
        };
        for address in &addresses {
            self.claims.release(*address, uid);
        }
        self.say(&addresses, out);
    }

    fn say(&self, addresses: &[IpAddr], out: &mut Vec<Change>) {
        out.extend(addresses.iter().map(|address| Change {
            origin: Origin::Service,
            range: (*address).into(),
            name: self.name_at(*address),
        }));
    }

    /// The name of a service address. Services may share an external address, by port: its name is
    /// what they have in common.
    fn name_at(&self, address: IpAddr) -> Option<Arc<Name>> {
        let mut names = self.claims.all(address);
        let (first, _) = self.known.get(&names.next()?)?;
        let mut common = Arc::clone(first);
        for (other, _) in names.filter_map(|uid| self.known.get(&uid)) {
            let shared = Arc::make_mut(&mut common);
            shared.service = None;
            if shared.namespace != other.namespace {
                shared.namespace = None;
            }
        }
        Some(common)
    }
}

/// All addresses of a service, each once. `None` (of headless services) and host names are no
/// addresses.
fn addresses(service: &Service) -> Vec<IpAddr> {
    let spec = &service.spec;
    let listed = [&spec.cluster_ips, &spec.external_ips];
    let listed = listed.into_iter().flatten().flatten();
    let ingress = service.status.load_balancer.ingress.iter().flatten();
    let mut found: Vec<IpAddr> = listed
        .chain(&spec.cluster_ip)
        .chain(ingress.filter_map(|ingress| ingress.ip.as_ref()))
        .filter_map(|text| text.parse().ok())
        .map(|address: IpAddr| address.to_canonical())
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// The addresses behind services.
#[derive(Debug, Default)]
pub(super) struct Slices {
    known: HashMap<u128, (Backend, Vec<IpAddr>)>,
}

/// An address that is behind a service now, or (false) not any more.
pub(super) type Moved = (IpAddr, Backend, bool);

impl Slices {
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn uids(&self) -> impl Iterator<Item = u128> {
        self.known.keys().copied()
    }

    pub(super) fn apply(
        &mut self,
        uid: u128,
        slice: &EndpointSlice,
        texts: &mut Interner,
    ) -> Vec<Moved> {
        let metadata = &slice.metadata;
        let labels = metadata.labels.as_ref();
        let label = |key: &str| labels.and_then(|labels| labels.get(key));
        let Some(service) = label(SERVICE_NAME) else {
            return self.remove(uid);
        };
        let backend = Backend {
            headless: label(HEADLESS).is_some(),
            service: texts.share(service),
            namespace: texts.share(metadata.namespace.as_deref().unwrap_or_default()),
        };
        let endpoints = slice.endpoints.iter().flatten();
        let mut now: Vec<IpAddr> = endpoints
            .flat_map(|endpoint| endpoint.addresses.iter().flatten())
            .filter_map(|text| text.parse().ok())
            .map(|address: IpAddr| address.to_canonical())
            .collect();
        now.sort_unstable();
        now.dedup();
        let before = self.known.get(&uid);
        if before.is_some_and(|(known, addresses)| *known == backend && *addresses == now) {
            return Vec::new();
        }
        // New backends go before removed ones, so that an address that stays keeps its service.
        let came = now.iter().map(|address| (*address, backend.clone(), true));
        let mut moved: Vec<Moved> = came.collect();
        moved.extend(self.remove(uid));
        self.known.insert(uid, (backend, now));
        moved
    }

    pub(super) fn remove(&mut self, uid: u128) -> Vec<Moved> {
        let Some((backend, addresses)) = self.known.remove(&uid) else {
            return Vec::new();
        };
        let gone = addresses.into_iter();
        gone.map(|address| (address, backend.clone(), false))
            .collect()
    }
}
