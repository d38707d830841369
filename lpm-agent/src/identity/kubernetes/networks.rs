//! Further networks of a pod, beside the cluster's own: L2S-M's, and all others that Multus
//! attaches.
//!
//! L2S-M attaches pods through Multus, to ports of its switches. For the n-th network that
//! `l2sm/networks` asks for, it takes any free port of the pod's node. It writes these ports, in
//! the same order, into Multus' own annotation (`internal/controller/pod_webhook.go`; if that
//! annotation exists already, it does nothing). So Multus knows the network as
//! `l2sm-system/overlay-veth3` on one node and as another port elsewhere. Multus' status has the
//! addresses, and L2S-M's annotation has the name.
//!
//! Both annotations are claims of whoever wrote the pod. What is read of them is bounded, and
//! nothing counts that the configuration does not permit ([`crate::identity::permits`]).

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, SeqAccess, Visitor},
};

use super::objects::{L2SM_NETWORKS, NETWORK_STATUS, NETWORKS};
use crate::{
    identity::claims::{Refusals, Refused},
    text::LONGEST_NAME,
};

/// Most networks of an annotation that are read.
const MOST: usize = 256;

/// Most addresses of a pod that count.
pub(super) const MOST_ADDRESSES: usize = 16;

/// What a pod's annotations claim: at most [`MOST_ADDRESSES`] addresses.
#[derive(Clone, Debug, Default)]
pub(super) struct Claimed {
    pub(super) addresses: Vec<Claim>,
    /// Addresses that do not count, whatever the configuration permits.
    pub(super) refused: Refusals,
}

/// A claim: that the pod has an address in a network.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) address: IpAddr,
    /// What Multus calls the network.
    pub(super) status: Arc<str>,
    /// What people call the network: L2S-M's name of it, else Multus'.
    pub(super) name: Arc<str>,
}

/// A network in one of the annotations.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Network {
    name: Text,
    namespace: Option<String>,
    ips: Addresses,
    /// True: the cluster's own network.
    default: bool,
}

/// A name. None: it is longer than any name may be.
#[derive(Clone, Debug)]
struct Text(Option<Arc<str>>);

impl Default for Text {
    fn default() -> Self {
        Self(Some("".into()))
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self((text.len() <= LONGEST_NAME).then(|| text.into()))
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from).map(|text| text.as_str().into())
    }
}

/// The first addresses of a network, and how many more there are.
#[derive(Clone, Debug, Default)]
struct Addresses {
    some: Vec<IpAddr>,
    beyond: usize,
    unreadable: usize,
}

impl Addresses {
    fn count(&self) -> usize {
        self.some.len() + self.beyond + self.unreadable
    }
}

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AddressesVisitor)
    }
}

struct AddressesVisitor;

impl<'de> Visitor<'de> for AddressesVisitor {
    type Value = Addresses;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a list of addresses")
    }

    fn visit_unit<E>(self) -> Result<Addresses, E> {
        Ok(Addresses::default())
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Addresses, S::Error> {
        let mut found = Addresses::default();
        while found.some.len() < MOST_ADDRESSES {
            let Some(text) = list.next_element::<String>()? else {
                return Ok(found);
            };
            match address(&text) {
                Some(address) => found.some.push(address),
                None => found.unreadable += 1,
            }
        }
        while list.next_element::<IgnoredAny>()?.is_some() {
            found.beyond += 1;
        }
        Ok(found)
    }
}

/// The first networks of an annotation, how many there are in all, and how many addresses the others
/// have.
#[derive(Clone, Debug, Default)]
struct List {
    networks: Vec<Network>,
    length: usize,
    beyond: usize,
}

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(ListVisitor)
    }
}

struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = List;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a list of networks")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<List, S::Error> {
        let mut found = List::default();
        while let Some(network) = list.next_element::<Network>()? {
            found.length += 1;
            if found.networks.len() < MOST {
                found.networks.push(network);
            } else {
                found.beyond += network.ips.count();
            }
        }
        Ok(found)
    }
}

impl Network {
    /// True if both have an address in common.
    fn meets(&self, other: &Self) -> bool {
        let mut all = self.ips.some.iter();
        all.any(|address| other.ips.some.contains(address))
    }

    /// True unless both name addresses and have none in common: they may be the same network.
    fn may_be(&self, other: &Self) -> bool {
        let names = |network: &Self| !network.ips.some.is_empty();
        !names(self) || !names(other) || self.meets(other)
    }

    /// True if Multus' status calls this requested network so.
    fn is_called(&self, status: &str) -> bool {
        let (namespace, name) = status
            .rsplit_once('/')
            .map_or((None, status), |(namespace, name)| (Some(namespace), name));
        let asked = self.namespace.as_deref();
        self.name.0.as_deref() == Some(name)
            && (namespace.is_none() || asked.is_none() || namespace == asked)
    }
}

/// What a pod's annotations claim. Addresses come from what Multus reports (`network-status`) and
/// from nowhere else; what L2S-M was asked for (`l2sm/networks`) gives the networks' names.
pub(super) fn read(metadata: &ObjectMeta) -> Claimed {
    let mut found = Claimed::default();
    let annotation = |key: &str| metadata.annotations.as_ref()?.get(key);
    let wanted = annotation(L2SM_NETWORKS).map_or_else(List::default, |text| list(text));
    let Some(status) = annotation(NETWORK_STATUS) else {
        let asked = wanted.networks.iter().map(|network| network.ips.count());
        let asked = asked.sum::<usize>() + wanted.beyond;
        found.refused.add(Refused::NotAttached, asked);
        return found;
    };
    // Multus never writes names alone here.
    let Ok(mut attached) = serde_json::from_str::<List>(status) else {
        found.refused.add(Refused::Unreadable, 1);
        return found;
    };
    attached.networks.retain(|network| !network.default);
    // L2S-M writes JSON there.
    let asked: Option<List> =
        annotation(NETWORKS).map(|text| serde_json::from_str(text).unwrap_or_default());
    let asked = asked.as_ref();
    let all = attached.networks.len();
    for (place, network) in attached.networks.iter().enumerate() {
        let name = named(network, place, all, asked, &wanted).unwrap_or(&network.name);
        found.take(network, name);
    }
    found.refused.add(Refused::TooMany, attached.beyond);
    found
}

impl Claimed {
    /// Adds the addresses of a network, as far as they are new and there is room.
    fn take(&mut self, network: &Network, name: &Text) {
        let Network {
            ips, name: status, ..
        } = network;
        let (Some(status), Some(name)) = (&status.0, &name.0) else {
            self.refused.add(Refused::LongName, ips.count());
            return;
        };
        self.refused.add(Refused::Unreadable, ips.unreadable);
        self.refused.add(Refused::TooMany, ips.beyond);
        for address in &ips.some {
            if self.addresses.iter().any(|known| known.address == *address) {
                continue;
            }
            if self.addresses.len() == MOST_ADDRESSES {
                self.refused.add(Refused::TooMany, 1);
                continue;
            }
            self.addresses.push(Claim {
                address: *address,
                status: Arc::clone(status),
                name: Arc::clone(name),
            });
        }
    }
}

/// L2S-M's name of a network that Multus has attached as the `place`-th of `all`. None: it is not a
/// network of L2S-M.
fn named<'a>(
    network: &Network,
    place: usize,
    all: usize,
    asked: Option<&List>,
    wanted: &'a List,
) -> Option<&'a Text> {
    // The match is by an address that only one network has: another may use the same.
    let mut meeting = wanted
        .networks
        .iter()
        .filter(|wanted| wanted.meets(network));
    if let (Some(only), None) = (meeting.next(), meeting.next()) {
        return Some(&only.name);
    }
    // L2S-M asks Multus for as many networks as it was asked for, in the same order.
    let place = match asked {
        Some(asked) => {
            let status = network.name.0.as_deref()?;
            let mut asked = asked.networks.iter();
            asked.position(|asked| asked.is_called(status))
        }
        None => Some(place),
    }?;
    let as_many = asked.map_or(all, |asked| asked.length) == wanted.length;
    let named = wanted.networks.get(place).filter(|_| as_many)?;
    named.may_be(network).then_some(&named.name)
}

/// Parses networks in the forms that L2S-M accepts: JSON, or names alone with commas between.
fn list(text: &str) -> List {
    if let Ok(networks) = serde_json::from_str(text) {
        return networks;
    }
    // Broken JSON is not taken for names.
    if text.contains(['{', '[', '"']) {
        return List::default();
    }
    let names = text.split(',').map(str::trim);
    let names = names.filter(|name| !name.is_empty());
    let network = |name: &str| Network {
        name: name.into(),
        ..Network::default()
    };
    let mut found = List::default();
    for name in names {
        found.length += 1;
        if found.networks.len() < MOST {
            found.networks.push(network(name));
        }
    }
    found
}

/// Parses an address, with or without a prefix length.
fn address(text: &str) -> Option<IpAddr> {
    let with_length = text.parse::<IpNet>().map(|range| range.addr());
    let address = with_length.or_else(|_| text.parse()).ok()?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests;
