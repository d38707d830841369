//! Digests of packets: what identifies a packet, its flow and its direction, for [`super::copies`]
//! and [`super::order`]. They are made of the headers outside of any tunnel.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use lpm_common::{
    hash::{self, SEEDS},
    packet::{MAPPED, flag},
    parse::{Link, tunnel::TunnelPorts},
};

use super::link::{VLAN_TAGS, View};

/// Bytes after the IP header that are read: a TCP header with all its options, or the headers of a
/// flow in a tunnel. Both contain a checksum of all the rest.
const LOOKED_AT: usize = 128;
/// Bytes that are enough for headers: 22 of Ethernet and two tags, 60 of IP, 60 of TCP.
pub(super) const KEPT: usize = 512;
/// Bytes that are enough for the headers of two tunnels and their content. A tunnel takes 330 with
/// all its options. Extension headers in a tunnel may lie beyond.
const KEPT_OF_TUNNELS: usize = 1024;
/// Offset of the ethertype in a frame.
const ETHERTYPE: usize = 12;
/// Most VLAN tags that are skipped.
const MOST_TAGS: usize = 4;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const DNS: u32 = 53;
/// Extension headers of IPv6 that contain their length (RFC 8200 section 4), and the one of both
/// versions (RFC 4302).
const EXTENSIONS: [u8; 5] = [0, 43, 44, 51, 60];

/// The digest of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Identifies the packet's flow and its direction.
    pub direction: u64,
    /// Identifies the conversation, equal in both directions. All UDP between two hosts is one: in
    /// tunnels the ports of a flow's two directions differ.
    pub conversation: u64,
    /// Direction within the conversation, 0 or 1.
    pub way: usize,
    /// Identifies the packet: equal in two that carry the same, whatever routers changed on the
    /// way. 0: no method measures it, or its headers are not all there.
    pub packet: u64,
    /// Identification field of IPv4. 0: none.
    pub id: u16,
    /// The cause that would make the sender repeat the packet.
    pub repeats: Repeats,
    /// The part of the packet that is measured.
    pub needed: Needed,
}

/// The part of a packet that the methods read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needed {
    /// The headers of the packet, outside of tunnels.
    Headers,
    /// The headers of the packet, and those of the packets in its tunnels.
    Tunnels,
    /// The whole packet: it may hold DNS messages, or headers of any length.
    All,
}

/// Why a packet would come again, other than as a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeats {
    /// A timer alone: DNS, ping.
    ByTimer,
    /// What the other end sent since, or a timer of a second (RFC 6298 section 2.1): SYN.
    BySlowTimer,
    /// What the other end answered to data sent since (RFC 5681 section 3.2), or a timer.
    ByAnswer,
    /// Whatever the other end sent: an acknowledgment without data.
    ByAny,
}

impl Digest {
    /// Most bytes that are read of a packet with this digest. A packet without digest is not IP.
    #[must_use]
    pub fn needed(digest: Option<&Self>) -> usize {
        match digest.map_or(Needed::Headers, |digest| digest.needed) {
            Needed::Headers => KEPT,
            Needed::Tunnels => KEPT_OF_TUNNELS,
            Needed::All => usize::MAX,
        }
    }
}

/// Makes digests.
#[derive(Debug)]
pub struct Digester {
    content: RandomState,
    seeds: [u32; SEEDS],
    tunnels: TunnelPorts,
}

/// The parts of an IP packet.
struct Ip<'a> {
    src: [u32; 4],
    dst: [u32; 4],
    v6: bool,
    protocol: u8,
    /// The part of the header that describes the packet and that no router changes.
    about: &'a [u8],
    id: u16,
    /// Length after the header, bytes. 0: the header does not say.
    len: usize,
    /// The captured part of that. Empty for a later fragment.
    rest: &'a [u8],
}

impl Digester {
    /// Makes a digester with the hash's secrets, and the ports of the tunnels whose content is
    /// measured.
    #[must_use]
    pub fn new(seeds: [u32; SEEDS], tunnels: TunnelPorts) -> Self {
        Self {
            content: RandomState::new(),
            seeds,
            tunnels,
        }
    }

    /// Makes the digest of a packet. None: it is not IP, or not even its header was captured.
    #[must_use]
    pub fn digest(&self, view: &View<'_>) -> Option<Digest> {
        let at = network(view)?;
        let ip = ip(view.data.get(at..)?)?;
        let ports = match ip.protocol {
            TCP | UDP => ip.rest.first_chunk().map_or(0, |p| u32::from_be_bytes(*p)),
            _ => 0,
        };
        let kept = if ip.protocol == UDP { 0 } else { ports };
        let way = usize::from((ip.src, kept >> 16) > (ip.dst, kept & 0xffff));
        let conversation = if way == 0 {
            self.name(&ip, ip.src, ip.dst, kept)
        } else {
            self.name(&ip, ip.dst, ip.src, kept.rotate_left(16))
        };
        let direction = self.name(&ip, ip.src, ip.dst, ports);
        let repeats = self.repeats(&ip, ports);
        let packet = repeats.map_or(0, |_| {
            let mut hasher = self.content.build_hasher();
            hasher.write_u64(direction);
            hasher.write_u32(view.segment);
            // The same packet in two VLANs was seen at two places.
            hasher.write(match view.link {
                Link::Ethernet => view.data.get(ETHERTYPE..at).unwrap_or_default(),
                Link::Ip => &[],
            });
            hasher.write(ip.about);
            hasher.write(&ip.rest[..ip.rest.len().min(LOOKED_AT)]);
            hasher.finish().max(1)
        });
        Some(Digest {
            direction,
            conversation,
            way,
            packet,
            id: ip.id,
            repeats: repeats.unwrap_or(Repeats::ByTimer),
            needed: self.needed(&ip, ports),
        })
    }

    fn name(&self, ip: &Ip<'_>, from: [u32; 4], to: [u32; 4], ports: u32) -> u64 {
        let addresses = if ip.v6 {
            hash::v6(&self.seeds, from, to)
        } else {
            hash::v4(&self.seeds, from[3], to[3])
        };
        hash::fingerprint(&self.seeds, addresses, ports, ip.protocol.into(), 0)
    }

    /// The cause that would make the sender repeat the packet. None: no method measures it.
    fn repeats(&self, ip: &Ip<'_>, ports: u32) -> Option<Repeats> {
        let ends = [ports >> 16, ports & 0xffff];
        match ip.protocol {
            TCP => {
                let fixed: &[u8; 20] = ip.rest.first_chunk()?;
                let headers = usize::from(fixed[12] >> 4) * 4;
                // Each segment that nobody wants draws a reset, the same again and again (RFC 9293
                // section 3.5.2). A second one changes nothing, and is no copy.
                if fixed[13] & flag::RST != 0 {
                    return None;
                }
                let bare = fixed[13] & flag::FIN == 0 && ip.len == headers;
                Some(if fixed[13] & flag::SYN != 0 {
                    Repeats::BySlowTimer
                } else if bare {
                    Repeats::ByAny
                } else {
                    Repeats::ByAnswer
                })
            }
            UDP if ip.rest.len() < 8 => None,
            UDP if ends.contains(&DNS) => Some(Repeats::ByTimer),
            UDP => self.is_tunnel(ends[1]).then_some(Repeats::ByAnswer),
            // Types of echo request and echo reply (RFC 792, RFC 4443).
            ICMP if ip.rest.len() >= 8 && matches!(ip.rest[0], 0 | 8) => Some(Repeats::ByTimer),
            ICMPV6 if ip.rest.len() >= 8 && matches!(ip.rest[0], 128 | 129) => {
                Some(Repeats::ByTimer)
            }
            _ => None,
        }
    }

    fn needed(&self, ip: &Ip<'_>, ports: u32) -> Needed {
        let ends = [ports >> 16, ports & 0xffff];
        match ip.protocol {
            TCP | UDP if ends.contains(&DNS) => Needed::All,
            UDP if self.is_tunnel(ends[1]) => Needed::Tunnels,
            protocol if EXTENSIONS.contains(&protocol) => Needed::All,
            _ => Needed::Headers,
        }
    }

    fn is_tunnel(&self, port: u32) -> bool {
        let mut tunnels = self.tunnels.vxlan.iter().chain(&self.tunnels.geneve);
        tunnels.any(|tunnel| *tunnel != 0 && u32::from(*tunnel) == port)
    }
}

/// Offset of the IP header.
fn network(view: &View<'_>) -> Option<usize> {
    if view.link == Link::Ip {
        return Some(0);
    }
    let mut at = ETHERTYPE;
    for _ in 0..=MOST_TAGS {
        let ethertype = be16(view.data, at)?;
        if !VLAN_TAGS.contains(&ethertype) {
            return Some(at + 2);
        }
        at += 4;
    }
    None
}

fn ip(bytes: &[u8]) -> Option<Ip<'_>> {
    match bytes.first()? >> 4 {
        4 => {
            let header: &[u8; 20] = bytes.first_chunk()?;
            let len = usize::from(header[0] & 0xf) * 4;
            let later = be16(header, 6)? & 0x1fff != 0;
            Some(Ip {
                src: [0, 0, MAPPED, word(header, 12)],
                dst: [0, 0, MAPPED, word(header, 16)],
                v6: false,
                protocol: header[9],
                about: bytes.get(2..8)?,
                id: be16(header, 4)?,
                len: usize::from(be16(header, 2)?).saturating_sub(len),
                rest: if later {
                    &[]
                } else {
                    bytes.get(len..).unwrap_or_default()
                },
            })
        }
        6 => {
            let header: &[u8; 40] = bytes.first_chunk()?;
            let address = |at: usize| [0, 4, 8, 12].map(|i| word(header, at + i));
            Some(Ip {
                src: address(8),
                dst: address(24),
                v6: true,
                protocol: header[6],
                about: bytes.get(2..7)?,
                id: 0,
                len: be16(header, 4)?.into(),
                rest: &bytes[40..],
            })
        }
        _ => None,
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*bytes))
}

/// A word with the byte order of the packet in memory.
fn word(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk());
    u32::from_ne_bytes(bytes.copied().unwrap_or_default())
}

#[cfg(test)]
pub(super) mod tests {
    use lpm_common::testing::{frame::Frame, query::Message};

    use super::*;
    use crate::replay::link;

    pub(crate) fn digester() -> Digester {
        Digester::new([7; SEEDS], TunnelPorts::default())
    }

    pub(crate) fn digest(digester: &Digester, frame: &[u8]) -> Digest {
        let len = u32::try_from(frame.len()).expect("a frame");
        let view = link::view(1, frame, len).expect("Ethernet");
        digester.digest(&view).expect("IP")
    }

    #[test]
    fn both_ways_are_one_conversation_and_two_directions() {
        let digester = digester();
        for (a, b) in [("198.18.5.1", "198.18.5.2"), ("fd00::1", "fd00::2")] {
            let [a, b] = [a, b].map(|address| address.parse().expect("an address"));
            let one = digest(&digester, &Frame::new(a, b, 1000, 80).bytes());
            let other = digest(&digester, &Frame::new(b, a, 80, 1000).bytes());
            assert_eq!(one.conversation, other.conversation);
            assert_ne!((one.direction, one.way), (other.direction, other.way));
            assert_ne!(one.packet, other.packet);
            let next = digest(&digester, &Frame::new(a, b, 1001, 80).bytes());
            assert_ne!(next.conversation, one.conversation);
        }
    }

    #[test]
    fn what_a_router_changes_makes_no_other_packet() {
        let digester = digester();
        let [a, b] = ["198.18.5.1", "198.18.5.2"].map(|a| a.parse().expect("an address"));
        let frame = Frame::new(a, b, 1000, 80).bytes();
        let first = digest(&digester, &frame);
        // Addresses of the link, TTL, and checksum of the IP header do not matter. The later ones
        // make another packet.
        for (at, same) in [
            (0, true),
            (6, true),
            (22, true),
            (24, true),
            (18, false),
            (38, false),
        ] {
            let mut other = frame.clone();
            other[at] ^= 1;
            assert_eq!(
                digest(&digester, &other).packet == first.packet,
                same,
                "{at}"
            );
        }
        let tagged = [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat();
        let tagged = digest(&digester, &tagged);
        assert_eq!(tagged.conversation, first.conversation);
        assert_ne!(tagged.packet, first.packet, "seen in another network");
    }

    #[test]
    fn packets_are_needed_as_far_as_they_are_read() {
        let [a, b] = ["fd00::1", "fd00::2"].map(|a| a.parse().expect("an address"));
        let tunnels = TunnelPorts {
            vxlan: [4789, 0, 0, 0],
            geneve: [6081, 0, 0, 0],
        };
        let with = Digester::new([7; SEEDS], tunnels);
        let udp = |sport, dport| Message::query(1).udp(a, b, sport, dport);
        let mut behind = Frame::new(a, b, 1000, 80);
        behind.extensions = vec![(60, vec![0; 8])];
        let mut tagged = Frame::new(a, b, 53, 1000);
        tagged.tags = vec![(0x88a8, 5), (0x8100, 7)];
        for (frame, plain, inside) in [
            (Frame::new(a, b, 1000, 80), Needed::Headers, Needed::Headers),
            (Frame::new(a, b, 1000, 53), Needed::All, Needed::All),
            (udp(53, 1000), Needed::All, Needed::All),
            (udp(1000, 4789), Needed::Headers, Needed::Tunnels),
            (udp(1000, 6081), Needed::Headers, Needed::Tunnels),
            (udp(4789, 1000), Needed::Headers, Needed::Headers),
            (behind, Needed::All, Needed::All),
            (tagged, Needed::All, Needed::All),
        ] {
            let bytes = frame.bytes();
            assert_eq!(digest(&digester(), &bytes).needed, plain, "{frame:?}");
            assert_eq!(digest(&with, &bytes).needed, inside, "{frame:?}");
        }
    }
}
