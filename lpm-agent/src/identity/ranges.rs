//! A map of address ranges with lookup by longest prefix.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;

use super::Name;

/// Pattern of a range of addresses, for schemas.
pub(crate) const CIDR: &str = "^([0-9.]+/[0-9]{1,2}|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*/[0-9]{1,3})$";

/// Number of parts that the ranges of one length are divided into.
const SHARDS: usize = 256;

type Shard = Arc<HashMap<u128, Arc<Name>>>;

/// Ranges of addresses and the names of their owners.
///
/// A copy is cheap, however many ranges there are. So is a change while somebody still reads a
/// copy: only the part with the change is copied.
#[derive(Clone, Debug, Default)]
pub struct PrefixMap {
    /// Ranges by prefix length (IPv4 mapped, so 0 to 128), then by address.
    by_length: BTreeMap<u8, Box<[Shard]>>,
}

impl PrefixMap {
    /// Adds a range, or replaces the name of the same range.
    pub fn insert(&mut self, range: IpNet, name: Arc<Name>) {
        let (length, address) = mapped(range);
        let shards = self
            .by_length
            .entry(length)
            .or_insert_with(|| vec![Shard::default(); SHARDS].into());
        Arc::make_mut(&mut shards[shard(address)]).insert(address, name);
    }

    /// Removes a range. Returns its name.
    pub fn remove(&mut self, range: IpNet) -> Option<Arc<Name>> {
        let (length, address) = mapped(range);
        let shards = self.by_length.get_mut(&length)?;
        Arc::make_mut(&mut shards[shard(address)]).remove(&address)
    }

    /// The name of exactly this range.
    #[must_use]
    pub fn get(&self, range: IpNet) -> Option<&Arc<Name>> {
        let (length, address) = mapped(range);
        self.by_length.get(&length)?[shard(address)].get(&address)
    }

    /// The name of the longest range that holds an address.
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<&Arc<Name>> {
        let address = bits(address);
        self.by_length.iter().rev().find_map(|(length, shards)| {
            let address = address & mask(*length);
            shards[shard(address)].get(&address)
        })
    }

    /// The name of exactly this address.
    #[must_use]
    pub fn exact(&self, address: IpAddr) -> Option<&Arc<Name>> {
        self.get(address.into())
    }

    /// All ranges: length in bits (IPv4 mapped), address in network byte order, name.
    pub fn ranges(&self) -> impl Iterator<Item = (u8, [u8; 16], &Arc<Name>)> {
        self.by_length.iter().flat_map(|(length, shards)| {
            let ranges = shards.iter().flat_map(|shard| shard.iter());
            ranges.map(|(address, name)| (*length, address.to_be_bytes(), name))
        })
    }

    /// All ranges and names.
    #[must_use]
    pub fn all(&self) -> Vec<(IpNet, Arc<Name>)> {
        let ranges = self.ranges();
        let plain = ranges.filter_map(|(length, address, name)| {
            let address = Ipv6Addr::from(address);
            let range = match address.to_ipv4_mapped().zip(length.checked_sub(96)) {
                Some((v4, length)) => IpNet::new(v4.into(), length),
                None => IpNet::new(address.into(), length),
            };
            Some((range.ok()?, Arc::clone(name)))
        });
        plain.collect()
    }

    /// Number of ranges.
    #[must_use]
    pub fn len(&self) -> usize {
        let shards = self.by_length.values().flatten();
        shards.map(|shard| shard.len()).sum()
    }

    /// True if there is no range.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An address in the form of the kernel's map: 128 bits, IPv4 mapped (RFC 4291 section 2.5.5.2).
#[must_use]
pub fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// A range in the form of the kernel's map: length in bits, address in network byte order.
#[must_use]
pub fn key(range: IpNet) -> (u32, [u8; 16]) {
    let (length, address) = mapped(range);
    (u32::from(length), address.to_be_bytes())
}

fn mapped(range: IpNet) -> (u8, u128) {
    let length = match range {
        IpNet::V4(v4) => 96 + v4.prefix_len(),
        IpNet::V6(v6) => v6.prefix_len(),
    };
    (length, bits(range.network()) & mask(length))
}

fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

/// The part that an address is in. The upper bits are the same for all addresses of a cluster, and
/// the lower ones may be.
fn shard(address: u128) -> usize {
    let [high, low] = [address >> 64, address & u128::from(u64::MAX)];
    let folded = u64::try_from(high ^ low).unwrap_or_default();
    // Fibonacci hashing (Knuth, volume 3, section 6.4).
    usize::try_from(folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(pod: &str) -> Arc<Name> {
        Arc::new(Name {
            pod: Some(pod.into()),
            ..Name::default()
        })
    }

    fn address(last: u32) -> IpNet {
        IpNet::from(IpAddr::from((0xc612_0000 + last).to_be_bytes()))
    }

    #[test]
    fn a_copy_stays_as_it_was() {
        let mut names = PrefixMap::default();
        for last in 0..1000 {
            names.insert(address(last), name("before"));
        }
        let copy = names.clone();
        names.insert(address(7), name("after"));
        assert!(names.remove(address(8)).is_some());
        assert_eq!(names.len(), 999);
        assert_eq!(copy.len(), 1000);
        let pod = |names: &PrefixMap, last| {
            let found = names.get(address(last)).cloned();
            found.and_then(|name| name.pod.clone())
        };
        assert_eq!(pod(&copy, 7).as_deref(), Some("before"));
        assert_eq!(pod(&names, 7).as_deref(), Some("after"));
        assert_eq!(pod(&names, 8), None);
        assert_eq!(names.ranges().count(), 999);
    }

    #[test]
    fn addresses_that_follow_each_other_are_spread() {
        let mut full = vec![0; SHARDS];
        for last in 0..25_600 {
            let IpNet::V4(v4) = address(last) else {
                unreachable!("IPv4")
            };
            full[shard(bits(v4.addr().into()))] += 1;
        }
        assert!(
            full.iter().all(|count| (50..200).contains(count)),
            "{full:?}"
        );
    }

    #[test]
    fn ranges_of_both_families_are_kept_apart() {
        let mut names = PrefixMap::default();
        names.insert("0.0.0.0/0".parse().expect("a range"), name("four"));
        names.insert("::/0".parse().expect("a range"), name("six"));
        let pod = |address: &str| {
            let found = names.lookup(address.parse().expect("an address"));
            found.and_then(|name| name.pod.clone())
        };
        assert_eq!(pod("198.18.0.1").as_deref(), Some("four"));
        assert_eq!(pod("fd00::1").as_deref(), Some("six"));
    }
}
