//! Which services a node's own pods are behind, by the services' selectors: where endpoint slices are
//! not watched, which are as many as the cluster has pods.

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

/// A pod.
#[derive(Debug)]
struct Member {
    namespace: Arc<str>,
    labels: Labels,
    addresses: Box<[IpAddr]>,
}

impl Selectors {
    /// This is how a service is now.
    pub(super) fn service(
        &mut self,
        uid: u128,
        service: &Service,
        texts: &mut Interner,
    ) -> Vec<Moved> {
        let gone = self.no_service(uid);
        // Without a selector somebody else says what is behind it.
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

    /// A service is gone.
    pub(super) fn no_service(&mut self, uid: u128) -> Vec<Moved> {
        let Some(known) = self.services.remove(&uid) else {
            return Vec::new();
        };
        let behind = self.pods.values().flat_map(|pod| pod.behind(&known));
        let gone = behind.map(|(address, backend)| (address, backend, false));
        gone.collect()
    }

    /// This is how a pod is now.
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
        // What comes goes before what goes, so that an address that stays keeps its service.
        let moved = came.chain(gone).collect();
        self.pods.insert(uid, member);
        moved
    }

    /// A pod is gone.
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
    /// Its addresses as backends of a service, if the service selects it.
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
