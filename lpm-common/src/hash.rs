//! The seeded hash of a flow key.
//!
//! The hash is NH of UMAC (Black et al., CRYPTO 1999; RFC 4418 section 5.2): a
//! sum of products of 32-bit words, each added to a secret. For any two
//! different keys, at most one in 2^32 choices of the secrets makes them
//! collide. So nobody who does not know the secrets can make flows collide on
//! purpose. Two multiplications are enough for an IPv4 flow.

use crate::packet::Wrap;

/// Secrets, chosen at load time.
pub trait Seeds {
    /// Secret number `i`, 0 to 13.
    fn seed(&self, i: usize) -> u32;
}

/// Number of secrets.
pub const SEEDS: usize = 14;

impl Seeds for [u32; SEEDS] {
    #[inline(always)]
    fn seed(&self, i: usize) -> u32 {
        self[i % SEEDS]
    }
}

#[inline(always)]
fn product<S: Seeds>(seeds: &S, i: usize, a: u32, b: u32) -> u64 {
    u64::from(a.wrapping_add(seeds.seed(i)))
        .wrapping_mul(u64::from(b.wrapping_add(seeds.seed(i + 1))))
}

/// Hashes an IPv4 pair of addresses (words in network byte order).
#[inline(always)]
pub fn v4<S: Seeds>(seeds: &S, local: u32, remote: u32) -> u64 {
    product(seeds, 0, local, remote)
}

/// Hashes an IPv6 pair of addresses.
#[inline(always)]
pub fn v6<S: Seeds>(seeds: &S, local: [u32; 4], remote: [u32; 4]) -> u64 {
    product(seeds, 0, local[3], remote[3])
        .wrapping_add(product(seeds, 2, local[0], remote[0]))
        .wrapping_add(product(seeds, 4, local[1], remote[1]))
        .wrapping_add(product(seeds, 6, local[2], remote[2]))
        .wrapping_add(0x2545_f491_4f6c_dd1d)
}

/// Combines the parts of a flow's hash into its fingerprint, which is never 0.
///
/// `ports` is the local port in the high and the remote port in the low 16
/// bits.
#[inline(always)]
pub fn fingerprint<S: Seeds>(
    seeds: &S,
    addresses: u64,
    ports: u32,
    ifindex: u32,
    segment: u32,
) -> u64 {
    let ends = Ends {
        addresses,
        ports,
        ifindex,
    };
    wrapped(seeds, &ends, segment, &Wrap::default())
}

/// Combines the parts of a hash into the fingerprint of a flow inside tunnels.
#[inline(always)]
pub fn wrapped<S: Seeds>(seeds: &S, ends: &Ends, segment: u32, wrap: &Wrap) -> u64 {
    let place = product(seeds, 8, ends.ports, ends.ifindex);
    let mut hash = ends.addresses.wrapping_add(place);
    if segment != 0 {
        hash = hash.wrapping_add(product(seeds, 10, segment, wrap.inner_tags + 1));
    }
    if wrap.outer_vni | wrap.outer_tags != 0 {
        hash = hash.wrapping_add(product(seeds, 12, wrap.outer_vni, wrap.outer_tags));
    }
    // Spread to all bits (the finaliser of splitmix64, one round).
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^= hash >> 29;
    if hash == 0 { 1 } else { hash }
}

#[inline(always)]
fn addresses<S: Seeds>(seeds: &S, key: &crate::packet::FlowKey) -> u64 {
    if key.v6 {
        v6(seeds, key.local, key.remote)
    } else {
        v4(seeds, key.local[3], key.remote[3])
    }
}

/// The ends of a flow or of a query at a vantage, whatever its VLAN.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ends {
    addresses: u64,
    ports: u32,
    ifindex: u32,
}

impl Ends {
    /// The ends of a flow.
    #[inline(always)]
    pub fn of_flow<S: Seeds>(seeds: &S, key: &crate::packet::FlowKey) -> Self {
        Self {
            addresses: addresses(seeds, key),
            ports: u32::from(key.local_port) << 16 | u32::from(key.remote_port),
            ifindex: key.ifindex,
        }
    }

    /// The ends of a query. `kind` and `id` tell it from other queries and from
    /// flows.
    #[inline(always)]
    pub fn of_query<S: Seeds>(seeds: &S, key: &crate::packet::FlowKey, kind: u32, id: u32) -> Self {
        let flow = Self::of_flow(seeds, key);
        Self {
            addresses: flow.addresses.wrapping_add(product(seeds, 12, kind, id)),
            ..flow
        }
    }

    /// The fingerprint of the ends in the VLAN with these ids; 0: without a
    /// tag.
    #[inline(always)]
    pub fn within<S: Seeds>(&self, seeds: &S, vlan: u32) -> u64 {
        wrapped(seeds, self, vlan, &Wrap::default())
    }
}

/// Fingerprint of a whole key.
pub fn of_key<S: Seeds>(seeds: &S, key: &crate::packet::FlowKey) -> u64 {
    wrapped(seeds, &Ends::of_flow(seeds, key), key.segment, &key.wrap)
}
