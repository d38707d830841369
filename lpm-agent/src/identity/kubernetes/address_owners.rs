//! Owners of addresses: the objects that claim an address as theirs.

use std::{collections::HashMap, net::IpAddr};

/// First order of claims that came as events: they are later than all claims of the list.
const LIVE: u64 = 1 << 40;

/// The claim of one object to an address.
#[derive(Clone, Copy, Debug)]
struct Claim {
    order: u64,
    uid: u128,
}

/// Claims to addresses. A new pod gets an address while the old pod's object still exists, so the
/// latest claim holds.
#[derive(Debug, Default)]
pub(super) struct AddressOwners {
    by_address: HashMap<IpAddr, Vec<Claim>>,
    sequence: u64,
    /// Claims beyond the first one of each address.
    contested: usize,
}

impl AddressOwners {
    /// Adds an object's claim to an address. It starts now or, for an object of a list, at a time
    /// (seconds, any epoch). A claim that exists already does not change.
    pub(super) fn claim(&mut self, address: IpAddr, uid: u128, listed_since: Option<u64>) {
        self.sequence += 1;
        let order = listed_since.map_or(LIVE + self.sequence, |since| since.min(LIVE - 1));
        let claims = self
            .by_address
            .entry(address)
            .or_insert_with(|| Vec::with_capacity(1));
        if claims.iter().all(|claim| claim.uid != uid) {
            self.contested += usize::from(!claims.is_empty());
            claims.push(Claim { order, uid });
            claims.sort_by_key(|claim| claim.order);
        }
    }

    /// Removes an object's claim to an address.
    pub(super) fn release(&mut self, address: IpAddr, uid: u128) {
        if let Some(claims) = self.by_address.get_mut(&address) {
            let before = claims.len();
            claims.retain(|claim| claim.uid != uid);
            let left = claims.len();
            self.contested -= before.saturating_sub(1) - left.saturating_sub(1);
            if left == 0 {
                self.by_address.remove(&address);
            }
        }
    }

    /// Owner of the address: the object with the latest claim. None: no object claims it.
    pub(super) fn holder(&self, address: IpAddr) -> Option<u128> {
        Some(self.by_address.get(&address)?.last()?.uid)
    }

    /// Number of claims to an address that another object claims, too.
    pub(super) fn contested(&self) -> usize {
        self.contested
    }

    /// All objects that claim an address, the earliest claim first.
    pub(super) fn all(&self, address: IpAddr) -> impl Iterator<Item = u128> {
        let claims = self.by_address.get(&address).map_or(&[][..], Vec::as_slice);
        claims.iter().map(|claim| claim.uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 0, 1));

    #[test]
    fn the_latest_claim_holds_until_it_is_released() {
        let mut claims = AddressOwners::default();
        claims.claim(ADDRESS, 1, Some(2000));
        claims.claim(ADDRESS, 2, Some(1000));
        assert_eq!(claims.holder(ADDRESS), Some(1), "2 is older");
        claims.claim(ADDRESS, 3, None);
        assert_eq!(claims.holder(ADDRESS), Some(3));
        claims.claim(ADDRESS, 1, None);
        assert_eq!(claims.holder(ADDRESS), Some(3), "1 had it before");
        assert_eq!(claims.contested(), 2);
        claims.release(ADDRESS, 1);
        claims.release(ADDRESS, 3);
        assert_eq!(claims.holder(ADDRESS), Some(2));
        claims.release(ADDRESS, 2);
        assert_eq!(claims.holder(ADDRESS), None);
        assert_eq!(claims.all(ADDRESS).count(), 0);
        assert_eq!(claims.contested(), 0);
    }
}
