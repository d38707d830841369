//! The watched interfaces, and what the kernel knows beyond the programs' maps.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, PoisonError},
};

use super::{BlindLink, Flow, Link, Model, UNKNOWN, backends::Backends};
use crate::kernel::{
    conntrack::Conntrack,
    ports::{Port, Ports},
};

impl Model {
    /// The watched interfaces, by index.
    #[must_use]
    pub fn links(&self) -> BTreeMap<u32, Link> {
        self.links
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Interfaces by index: true if one carries one direction only. An interface without a verdict
    /// is missing.
    #[must_use]
    pub fn one_sided(&self) -> BTreeMap<u32, bool> {
        self.one_sided
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Records whether an interface carries one direction only. None: the interface is gone.
    /// Returns what was known before.
    pub fn set_one_sided(&self, index: u32, one_sided: Option<bool>) -> Option<bool> {
        let mut known = self.one_sided.write();
        let known = known.as_mut().unwrap_or_else(|poisoned| poisoned.get_mut());
        match one_sided {
            Some(one_sided) => known.insert(index, one_sided),
            None => known.remove(&index),
        }
    }

    /// Interfaces that should be measured and are not, by index, with their current names.
    #[must_use]
    pub fn blind(&self) -> BTreeMap<u32, BlindLink> {
        let mut blind = self
            .blind
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        for (index, blind) in &mut blind {
            if let Some(link) = links.get(index) {
                blind.name.clone_from(&link.name);
            }
        }
        blind
    }

    /// Records that an interface is not measured. None: it is measured, or need not be.
    pub fn set_blind(&self, index: u32, found: Option<BlindLink>) {
        let mut blind = self.blind.write().unwrap_or_else(PoisonError::into_inner);
        match found {
            Some(found) => drop(blind.insert(index, found)),
            None => drop(blind.remove(&index)),
        }
    }

    /// Records that an interface is watched, or has a new name.
    pub fn link_attached(&self, index: u32, link: Link) {
        self.links
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(index, link);
    }

    /// Records that an interface is not watched any more, and forgets its flows. Returns their
    /// number.
    ///
    /// # Errors
    /// See [`crate::passive::window::Windows::forget`].
    pub fn link_detached(&self, index: u32) -> io::Result<usize> {
        self.links
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&index);
        self.windows().forget(&*self.tables, index)
    }

    /// Sets the source of translated connections, so that the backends of flows can be found.
    pub fn follow_translated(&self, connections: Conntrack) {
        // The source is set once per model. A second one would know no more.
        let _ = self.translated.set(connections);
    }

    /// The table of backends, which receives the reports on translated connections.
    pub(crate) fn backends(&self) -> &Arc<Backends> {
        &self.backends
    }

    /// The backend of a flow whose destination is translated behind the vantage. None: the flow
    /// goes to its remote end, or the local end did not open it.
    #[must_use]
    pub fn backend(&self, flow: &Flow) -> Option<SocketAddr> {
        let from = SocketAddr::new(flow.local, flow.local_port);
        let to = SocketAddr::new(flow.remote, flow.remote_port);
        self.translated.get()?.backend(from, to)
    }

    /// Sets the source of interfaces' traffic, and the name of this node.
    pub fn read_ports(&self, ports: Ports, node: Arc<str>) {
        // The source is set once per model, as above.
        let _ = self.ports.set(ports);
        let _ = self.node.set(node);
    }

    /// Traffic of all interfaces, by index. Empty: it cannot be read.
    #[must_use]
    pub fn ports(&self) -> BTreeMap<u32, Port> {
        let ports = self.ports.get().map(Ports::read);
        ports.and_then(Result::ok).unwrap_or_default()
    }

    /// Traffic of some interfaces, see [`Ports::read_some`]. Empty: it cannot be read.
    #[must_use]
    pub fn some_ports(&self, indices: impl IntoIterator<Item = u32>) -> BTreeMap<u32, Port> {
        let ports = self.ports.get().map(|ports| ports.read_some(indices));
        ports.and_then(Result::ok).unwrap_or_default()
    }

    /// The name of this node.
    #[must_use]
    pub fn node(&self) -> Arc<str> {
        self.node.get().cloned().unwrap_or_else(|| UNKNOWN.into())
    }
}
