//! Resolves the names of the two ends of a flow: the local end by its interface, where that
//! decides.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use lpm_common::layout::tunnel;

use super::{Name, PrefixMap};

/// Owner of an interface of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalEnd {
    /// The pod that the CNI made it for.
    Pod(Arc<Name>),
    /// A pod that the CNI has not reported yet. The former name of its address does not count.
    NotYet,
}

/// Known local ends by interface index.
pub type LocalEnds = BTreeMap<u32, LocalEnd>;

/// All names at one moment, for many flows in a row.
#[derive(Clone, Debug, Default)]
pub struct Resolver {
    names: Arc<PrefixMap>,
    local: Arc<LocalEnds>,
}

impl Resolver {
    /// Makes a resolver from names, and from the local ends of interfaces.
    #[must_use]
    pub fn new(names: Arc<PrefixMap>, local: Arc<LocalEnds>) -> Self {
        Self { names, local }
    }

    /// The name of an address that is not behind a watched interface.
    #[must_use]
    pub fn remote(&self, address: IpAddr) -> Option<&Arc<Name>> {
        self.names.lookup(address)
    }

    /// The name of the local end of a flow at an interface. `segment` is as in
    /// [`lpm_common::layout::FlowCold::segment`]. The name is found by address where the interface
    /// does not decide, and in tunnels, whose ends are behind the interface's pod.
    #[must_use]
    pub fn local(&self, index: u32, segment: u32, address: IpAddr) -> Option<&Arc<Name>> {
        match self.local.get(&index) {
            Some(_) if tunnel::is_inside(segment) => self.remote(address),
            Some(LocalEnd::Pod(name)) => Some(name),
            Some(LocalEnd::NotYet) => None,
            None => self.remote(address),
        }
    }
}

/// Makes a resolver without interfaces, for a capture.
impl From<PrefixMap> for Resolver {
    fn from(names: PrefixMap) -> Self {
        Self::new(Arc::new(names), Arc::default())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn an_interface_goes_before_an_address() {
        let file = "- {address: 198.18.5.1, namespace: old, pod: gone-0}\n";
        let names = PrefixMap::parse(file, Path::new("names.yaml")).expect("names");
        let pod = Arc::new(Name {
            pod: Some("web-0".into()),
            ..Name::default()
        });
        let ends = [(7, LocalEnd::Pod(pod)), (8, LocalEnd::NotYet)];
        let whose = Resolver::new(Arc::new(names), Arc::new(ends.into()));
        let address = IpAddr::from([198, 18, 5, 1]);
        let pod = |index, segment| whose.local(index, segment, address)?.pod.as_deref();
        assert_eq!(pod(7, 0), Some("web-0"));
        assert_eq!(pod(8, 0), None, "its address was another pod's");
        assert_eq!(pod(9, 0), Some("gone-0"), "nothing is known of it");
        let inside = tunnel::segment_of(tunnel::TunnelKind::Vxlan as u32, 5, 0);
        assert_eq!(pod(7, inside), Some("gone-0"), "behind the pod");
    }
}
