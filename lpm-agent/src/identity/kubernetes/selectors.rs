//! Finds the services that a node's own pods are behind, by the services' selectors. It replaces
//! the watch of endpoint slices, which are as many as the cluster has pods.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::{
    intern::Interner,
    objects::{Pod, Service},
    pods::{Backend, own_addresses},
    services::Moved,
};

/// Value of `clusterIP` of a service without an address of its own.
const HEADLESS: &str = "None";

/// Labels and their values.
type Labels = BTreeMap<String, String>;

/// Services with a selector, and the pods that they may select.
#[derive(Debug, Default)]
pub(super) struct Selectors {
    services: HashMap<u128, (Backend, Labels)>,
    pods: HashMap<u128, Member>,
}

/// A pod that services may select.
#[derive(Debug)]
struct Member {
    namespace: Arc<str>,
    labels: Labels,
    addresses: Box<[IpAddr]>,
}

impl Selectors {
    /// Applies the current state of a service.
    pub(super) fn service(
        &mut self,
        uid: u128,
        service: &Service,
        texts: &mut Interner,
    ) -> Vec<Moved> {
        let gone = self.no_service(uid);
        // Without a selector somebody else decides what is behind the service.
        let selector = service.spec.selector.clone().unwrap_or_default();
        if selector.is_empty() {
            return gone;
        }
        let mut share = |text: &Option<String>| texts.share(text.as_deref().unwrap_or_default());
        let backend = Backend {
            headless: service.spec.cluster_ip.as_deref() == Some(HEADLESS),
            service: share(&service.metadata.name),
            namespace: share(&service.metadata.namespace),
        };
        let known = (backend, selector);
        let behind = self.pods.values().flat_map(|pod| pod.behind(&known));
        let came = behind.map(|(address, backend)| (address, backend, true));
        let moved = came.chain(gone).collect();
        self.services.insert(uid, known);
        moved
    }

    /// Removes a service that is gone.
    pub(super) fn no_service(&mut self, uid: u128) -> Vec<Moved> {
        let Some(known) = self.services.remove(&uid) else {
            return Vec::new();
        };
        let behind = self.pods.values().flat_map(|pod| pod.behind(&known));
        let gone = behind.map(|(address, backend)| (address, backend, false));
        gone.collect()
    }

    /// Applies the current state of a pod.
    pub(super) fn pod(&mut self, uid: u128, pod: &Pod, texts: &mut Interner) -> Vec<Moved> {
        let gone = self.no_pod(uid);
        let metadata = &pod.metadata;
        let member = Member {
            namespace: texts.share(metadata.namespace.as_deref().unwrap_or_default()),
            labels: metadata.labels.clone().unwrap_or_default(),
            addresses: own_addresses(pod),
        };
        let behind = self
            .services
            .values()
            .flat_map(|known| member.behind(known));
        let came = behind.map(|(address, backend)| (address, backend, true));
        // New backends go before removed ones, so that an address that stays keeps its service.
        let moved = came.chain(gone).collect();
        self.pods.insert(uid, member);
        moved
    }

    /// Removes a pod that is gone.
    pub(super) fn no_pod(&mut self, uid: u128) -> Vec<Moved> {
        let Some(member) = self.pods.remove(&uid) else {
            return Vec::new();
        };
        let services = self.services.values();
        let behind = services.flat_map(|known| member.behind(known));
        let gone = behind.map(|(address, backend)| (address, backend, false));
        gone.collect()
    }
}

impl Member {
    /// Addresses of the pod as backends of a service, if the service selects it.
    fn behind(&self, (backend, selector): &(Backend, Labels)) -> Vec<(IpAddr, Backend)> {
        let selected = self.namespace == backend.namespace
            && selector
                .iter()
                .all(|(label, value)| self.labels.get(label) == Some(value));
        let addresses = self.addresses.iter().filter(|_| selected);
        addresses
            .map(|address| (*address, backend.clone()))
            .collect()
    }
}
