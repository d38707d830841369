//! Questions and answers: ICMP echo and DNS.
//!
//! A question is remembered in a table of its own until its answer comes;
//! ends, method and id tell which answer is its. A question that is sent again
//! before that makes the answer ambiguous (Karn's rule): it is answered, but
//! no sample, for as long as an earlier asking may be answered
//! ([`Outstanding`]). Only the first answer counts. What went unanswered is found by
//! the agent, which looks at the table, and by whoever needs the entry for
//! another question: nothing sweeps in the kernel.
//!
//! A method is a file here: what it calls a question, what an answer, and
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

/// What a packet is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Neither of both.
    #[default]
    Neither,
    /// A question.
    Asks,
    /// An answer.
    Answers,
    /// Only the length of a message that the next segment begins with (DNS over
    /// TCP).
    Announces,
}

/// What a method has read of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Question or answer.
    pub role: Role,
    /// A [`Method`].
    pub method: u8,
    /// Number of the [`crate::layout::Leg`] that the round trip covers.
    pub leg: u8,
    /// Of an answer: place in the row's histograms.
    pub place: u8,
    /// Of a question: place that counts it if unanswered, or
    /// [`crate::layout::NOWHERE`].
    pub unanswered: u8,
    /// Of a DNS answer: the response code in its header in the low 4 bits;
    /// [`dns::CUT_SHORT`].
    pub detail: u8,
    /// Of an announcement: the message's length, bytes.
    pub length: u16,
    /// ICMP sequence number (high 16 bits) and id, or DNS id; of an
    /// announcement the TCP sequence number that the message begins with.
    pub id: u32,
}

/// A question or an answer, with its ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Its ends and vantage; no ports for ICMP.
    pub key: FlowKey,
    /// Interface of the vantage, which is not the key's where hooks are joined.
    pub ifindex: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// The rest.
    pub head: Head,
}

impl Query {
    /// What names the question, whichever of both this is.
    #[inline(always)]
    #[must_use]
    pub fn fingerprint<S: Seeds>(&self, seeds: &S) -> u64 {
        self.ends(seeds).within(seeds, self.key.segment)
    }

    /// Likewise, in whatever VLAN.
    #[inline(always)]
    #[must_use]
    pub fn ends<S: Seeds>(&self, seeds: &S) -> Ends {
        let kind = u32::from(self.protocol) << 8 | u32::from(self.head.leg);
        Ends::of_query(seeds, &self.key, kind, self.head.id)
    }
}

/// Keeps the remote end of a question for the agent, which knows those of flows by their entries.
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

/// What host code gives a question, and takes of its answer.
pub trait Ledger {
    /// Its row of histograms; 0: none.
    fn row(&self, query: &Query) -> u32;

    /// A sample.
    fn answered(&self, query: &Query, sample: &Sample);
}

/// A sample as watchers want it; `vantage` is the number of the
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
    // A kernel answers an echo request at once, a server thinks.
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

/// Whether packets of this protocol (not TCP) are looked into.
#[inline(always)]
#[must_use]
pub fn accepts(protocol: u8, methods: Methods) -> bool {
    (protocol == number::UDP && methods.has(Method::Dns))
        || ((protocol == number::ICMP || protocol == number::ICMPV6) && methods.has(Method::Icmp))
}

/// Whether a packet of this protocol may be a question or an answer, from the
/// first four bytes of its header; a look ahead for the fast path.
#[inline(always)]
#[must_use]
pub fn may_be(protocol: u8, first: u32, direction: Direction, methods: Methods) -> bool {
    if protocol == number::UDP {
        // The remote end's port: the destination's of what the local end sends.
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

/// Messages of a packet that are still to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rest {
    /// Where the next one begins, from the start of the packet.
    pub at: u32,
    /// Where the packet's payload ends.
    pub end: u32,
    /// Bytes of each but the last one, as merged datagrams have them; 0: each
    /// begins with its length, as over TCP.
    pub size: u32,
    /// Over TCP, the sequence number behind the payload.
    pub next: u32,
}

/// Messages of one packet that are read: as many datagrams as the kernel puts
/// together when it receives them (`UDP_GRO_CNT_MAX`). A sender's own may be
/// twice as many since 6.10 (`UDP_MAX_SEGMENTS`).
pub const MOST: u32 = 64;

/// Reads the ends of a datagram (anything that [`accepts`]), or of several that
/// were put together, each of `size` bytes, and of ICMP the message. Those of
/// DNS [`further`] reads.
///
/// # Errors
/// [`Counter`]: why there is nothing to measure in it.
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
/// [`Counter`]: why there is nothing to measure in it; others may follow.
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
