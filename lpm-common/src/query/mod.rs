//! Queries and their answers: ICMP echo and DNS.
//!
//! A query is remembered in a table of its own until its answer comes. Ends,
//! method and id tell which answer belongs to it. A query that is sent again
//! before its answer makes the answer ambiguous (Karn's rule). The query then
//! counts as answered, but no sample is made, as long as an earlier
//! transmission may still be answered ([`Outstanding`]). Only the first answer
//! counts.
//!
//! The agent finds unanswered queries by looking at the table. So does whoever
//! needs the entry for another query: nothing sweeps the table in the kernel.
//!
//! Each method is a file here. It says what a query is, what an answer is, and
//! where in a row of histograms the round trip is counted.

pub mod dns;
pub mod icmp;
mod outstanding;
mod table;
#[cfg(test)]
mod tests;

pub use outstanding::Outstanding;
pub(crate) use table::find;
pub use table::{CLAIMS, Queries, Sample, announced, answer, ask, knows};

use core::sync::atomic::Ordering::Relaxed;

use crate::{
    bytes::Bytes,
    counter::Counter,
    hash::{Ends, Seeds},
    layout::{self, Control, Echo, Leg, Method, Methods},
    packet::{Direction, FlowKey, Wrap},
    parse::{Network, number},
};

/// What a packet is to the methods of this module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Neither a query nor an answer.
    #[default]
    Neither,
    /// A query.
    Asks,
    /// An answer.
    Answers,
    /// An announcement: only the length of a message that the next segment
    /// begins with (DNS over TCP).
    Announces,
}

/// What a method has read of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Whether the message is a query, an answer or an announcement.
    pub role: Role,
    /// A [`Method`].
    pub method: u8,
    /// Number of the [`crate::layout::Leg`] that the round trip covers.
    pub leg: u8,
    /// For an answer: the place in the row's histograms.
    pub place: u8,
    /// For a query: the place that counts it if it stays unanswered, or
    /// [`crate::layout::NOWHERE`].
    pub unanswered: u8,
    /// For a DNS answer: the response code of its header in the low 4 bits, and
    /// [`dns::CUT_SHORT`].
    pub detail: u8,
    /// For an announcement: the message's length, bytes.
    pub length: u16,
    /// ICMP sequence number (high 16 bits) and id, or DNS id. For an
    /// announcement: the TCP sequence number that the message begins with.
    pub id: u32,
}

/// A query or an answer, with its ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// The ends and the vantage; ICMP has no ports.
    pub key: FlowKey,
    /// Interface of the vantage. At the node vantage it is not the key's.
    pub ifindex: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// What the method has read of the message.
    pub head: Head,
}

impl Query {
    /// The fingerprint of the query, which its answer shares.
    #[inline(always)]
    #[must_use]
    pub fn fingerprint<S: Seeds>(&self, seeds: &S) -> u64 {
        self.ends(seeds).within(seeds, self.key.segment)
    }

    /// The ends of the query, whatever its VLAN.
    #[inline(always)]
    #[must_use]
    pub fn ends<S: Seeds>(&self, seeds: &S) -> Ends {
        let kind = u32::from(self.protocol) << 8 | u32::from(self.head.leg);
        Ends::of_query(seeds, &self.key, kind, self.head.id)
    }
}

/// Keeps the remote end of a query for the agent. For flows the agent finds it
/// in their entries.
#[inline(always)]
pub fn note(query: &Query, control: &Control) {
    let remote = query.key.remote;
    let mixed = remote[0] ^ remote[1] ^ remote[2] ^ remote[3];
    // The upper five bits of a multiplicative hash: one of 32.
    let slot = mixed.wrapping_mul(0x9e37_79b1) >> 27;
    if let Some(words) = control.asked.get(slot as usize) {
        for (word, value) in words.iter().zip(remote) {
            word.store(value, Relaxed);
        }
    }
}

/// Where a host records queries: it supplies each query's row, and receives the samples.
pub trait QueryRecorder {
    /// The query's row of histograms; 0: none.
    fn row(&self, query: &Query) -> u32;

    /// Takes the sample of an answered query.
    fn answered(&self, query: &Query, sample: &Sample);
}

/// The sample as watchers receive it. `vantage` is the number of the
/// [`crate::layout::Vantage`].
#[inline(always)]
#[must_use]
pub fn record(query: &Query, sample: &Sample, vantage: u8) -> layout::Sample {
    let (key, head) = (&query.key, &query.head);
    let (src, dst, sport, dport) = if head.leg == Leg::Remote as u8 {
        (key.local, key.remote, key.local_port, key.remote_port)
    } else {
        (key.remote, key.local, key.remote_port, key.local_port)
    };
    // A kernel answers an echo request at once; a server takes time to think.
    let echo = if head.method == Method::Icmp as u8 {
        Echo::Prompt
    } else {
        Echo::Data
    } as u8;
    layout::Sample {
        time_ns: sample.now_ns,
        rtt_ns: sample.rtt_ns,
        src,
        dst,
        id: head.id,
        ifindex: sample.ifindex,
        segment: key.segment,
        sport,
        dport,
        leg: head.leg,
        echo: echo | (head.detail & dns::RCODE) << 4,
        method: head.method,
        vantage,
        outer_vni: 0,
    }
}

/// Whether packets of this protocol (not TCP) are parsed further.
#[inline(always)]
#[must_use]
pub fn accepts(protocol: u8, methods: Methods) -> bool {
    (protocol == number::UDP && methods.has(Method::Dns))
        || ((protocol == number::ICMP || protocol == number::ICMPV6) && methods.has(Method::Icmp))
}

/// Whether a packet of this protocol may be a query or an answer, by the first
/// four bytes of its header. The fast path looks ahead with it.
#[inline(always)]
#[must_use]
pub fn may_be(protocol: u8, first: u32, direction: Direction, methods: Methods) -> bool {
    if protocol == number::UDP {
        // The remote end's port: the destination port of what the local end
        // sends.
        let port = match direction {
            Direction::FromLocal => first & 0xffff,
            Direction::ToLocal => first >> 16,
        };
        return methods.has(Method::Dns) && port == u32::from(dns::PORT);
    }
    if protocol == number::ICMP {
        return methods.has(Method::Icmp) && icmp::is_echo(false, (first >> 16) as u16);
    }
    protocol == number::ICMPV6
        && methods.has(Method::Icmp)
        && icmp::is_echo(true, (first >> 16) as u16)
}

/// The messages of a packet that are still to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rest {
    /// Where the next message begins, from the start of the packet.
    pub at: u32,
    /// Where the packet's payload ends.
    pub end: u32,
    /// Bytes of each datagram but the last one in a merged packet; 0: each
    /// message begins with its length, as over TCP.
    pub size: u32,
    /// For TCP: the sequence number after the payload.
    pub next: u32,
}

/// Most messages of one packet that are read: as many datagrams as the kernel
/// merges on receipt (`UDP_GRO_CNT_MAX`). A sender's own packet may have twice
/// as many since Linux 6.10 (`UDP_MAX_SEGMENTS`).
pub const MOST: u32 = 64;

/// Reads the ends of a datagram (any protocol that [`accepts`]). In a merged
/// packet each datagram has `size` bytes. For ICMP it reads the message, too;
/// [`further`] reads those of DNS.
///
/// # Errors
/// [`Counter`]: why nothing in the packet can be measured.
#[inline(always)]
pub fn datagram<B: Bytes>(
    bytes: &B,
    network: &Network,
    direction: Direction,
    ifindex: u32,
    size: u32,
) -> Result<(Query, Rest), Counter> {
    if network.end > bytes.len() {
        return Err(Counter::SkippedTruncated);
    }
    let (mut head, mut rest, mut ports) = (Head::default(), Rest::default(), 0);
    if network.protocol == number::UDP {
        (ports, rest) = dns::udp(bytes, network, direction, size)?;
    } else {
        head = icmp::read(bytes, network, direction)?;
    }
    let (src, dst) = (network.src, network.dst);
    let (sport, dport) = ((ports >> 16) as u16, ports as u16);
    let (local, local_port, remote, remote_port) = match direction {
        Direction::FromLocal => (src, sport, dst, dport),
        Direction::ToLocal => (dst, dport, src, sport),
    };
    let query = Query {
        key: FlowKey {
            local,
            remote,
            local_port,
            remote_port,
            ifindex,
            segment: network.segment,
            v6: network.v6,
            wrap: Wrap::default(),
        },
        ifindex,
        protocol: network.protocol,
        head,
    };
    Ok((query, rest))
}

/// Reads the next message of a packet into `query`. False: there is none.
///
/// # Errors
/// [`Counter`]: why the message cannot be measured. Others may follow.
#[inline(always)]
pub fn further<B: Bytes>(
    bytes: &B,
    query: &mut Query,
    rest: &mut Rest,
    direction: Direction,
) -> Result<bool, Counter> {
    if rest.at >= rest.end {
        return Ok(false);
    }
    query.head = Head::default();
    query.head = dns::next(bytes, rest, direction)?;
    Ok(true)
}
