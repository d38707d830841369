//! Reading and rewriting Ethernet frames.

use etherparse::{LaxNetSlice, LaxSlicedPacket, TcpOptionElement, TcpSlice, TransportSlice};

use super::{impairment::VlanAction, log::TcpIdentity};

const TAG: u16 = 0x8100;
const SERVICE_TAG: u16 = 0x88a8;
/// UDP ports of `VxLAN`: L2S-M's, flannel's and IANA's.
const VXLAN_PORTS: [u16; 3] = [7000, 8472, 4789];

/// UDP port of `VxLAN`-GPE, which can carry IP without Ethernet.
const GPE_PORT: u16 = 4790;

/// Reads the innermost TCP header of an Ethernet frame, of a `VxLAN` packet the inner one; `None`: it
/// has none, or not in whole.
#[must_use]
pub fn tcp_identity(frame: &[u8]) -> Option<TcpIdentity> {
    let packet = LaxSlicedPacket::from_ethernet(frame).ok()?;
    match packet.transport.as_ref()? {
        TransportSlice::Udp(udp) if is_vxlan(udp.destination_port()) => {
            let payload = udp.payload();
            // Flags (8), reserved (24), VNI (24), reserved (8): RFC 7348.
            let vni = u32::from_be_bytes(payload.get(4..8)?.try_into().ok()?) >> 8;
            let carried = payload.get(8..)?;
            // GPE names what it carries: 1 is IPv4, 2 is IPv6.
            let bare = udp.destination_port() == GPE_PORT && matches!(payload[3], 1 | 2);
            let inner = if bare {
                LaxSlicedPacket::from_ip(carried).ok()?
            } else {
                LaxSlicedPacket::from_ethernet(carried).ok()?
            };
            match inner.transport.as_ref()? {
                TransportSlice::Tcp(tcp) => identity(&inner, tcp, Some(vni)),
                _ => None,
            }
        }
        TransportSlice::Tcp(tcp) => identity(&packet, tcp, None),
        _ => None,
    }
}

fn is_vxlan(port: u16) -> bool {
    VXLAN_PORTS.contains(&port) || port == GPE_PORT
}

fn identity(
    packet: &LaxSlicedPacket<'_>,
    tcp: &TcpSlice<'_>,
    vni: Option<u32>,
) -> Option<TcpIdentity> {
    let (source, destination) = match packet.net.as_ref()? {
        LaxNetSlice::Ipv4(ip) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        ),
        LaxNetSlice::Ipv6(ip) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        ),
        LaxNetSlice::Arp(_) => return None,
    };
    let timestamps = tcp
        .options_iterator()
        .flatten()
        .find_map(|option| match option {
            TcpOptionElement::Timestamp(value, echo) => Some((value, echo)),
            _ => None,
        });
    Some(TcpIdentity {
        vni,
        vlan: packet.vlan_ids().first().map(|id| id.value()),
        source,
        destination,
        source_port: tcp.source_port(),
        destination_port: tcp.destination_port(),
        sequence: tcp.sequence_number(),
        acknowledgement: tcp.acknowledgment_number(),
        flags: *tcp.slice().get(13)?,
        payload: u32::try_from(tcp.payload().len()).ok()?,
        timestamps,
    })
}

/// Applies a VLAN action to a frame.
pub(super) fn retag(frame: &mut Vec<u8>, action: &VlanAction) {
    match action {
        VlanAction::Keep => {}
        VlanAction::Push(ids) => {
            for (depth, id) in ids.iter().rev().enumerate() {
                let outer = depth > 0;
                insert_tag(frame, if outer { SERVICE_TAG } else { TAG }, *id);
            }
        }
        VlanAction::Pop => {
            while matches!(ether_type(frame, 12), Some(TAG | SERVICE_TAG)) && frame.len() >= 18 {
                frame.drain(12..16);
            }
        }
    }
}

/// Puts a tag between the addresses and what follows them.
pub(super) fn insert_tag(frame: &mut Vec<u8>, protocol: u16, control: u16) {
    if frame.len() >= 12 {
        let [p0, p1] = protocol.to_be_bytes();
        let [c0, c1] = control.to_be_bytes();
        frame.splice(12..12, [p0, p1, c0, c1]);
    }
}

/// Writes the DSCP of the outermost IP header, keeping the ECN bits.
pub(super) fn set_dscp(frame: &mut [u8], dscp: u8) {
    let mut offset = 12;
    while matches!(ether_type(frame, offset), Some(TAG | SERVICE_TAG)) {
        offset += 4;
    }
    let kind = ether_type(frame, offset);
    let Some(ip) = frame.get_mut(offset + 2..) else {
        return;
    };
    match kind {
        Some(0x0800) if ip.len() >= 20 => {
            let old = u16::from_be_bytes([ip[0], ip[1]]);
            ip[1] = (dscp << 2) | (ip[1] & 3);
            let new = u16::from_be_bytes([ip[0], ip[1]]);
            let checksum = u16::from_be_bytes([ip[10], ip[11]]);
            let checksum = update_checksum(checksum, old, new).to_be_bytes();
            ip[10..12].copy_from_slice(&checksum);
        }
        Some(0x86dd) if ip.len() >= 40 => {
            let word = u16::from_be_bytes([ip[0], ip[1]]);
            let word = (word & 0xf03f) | (u16::from(dscp & 0x3f) << 6);
            ip[..2].copy_from_slice(&word.to_be_bytes());
        }
        _ => {}
    }
}

fn ether_type(frame: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_be_bytes(
        frame.get(offset..offset + 2)?.try_into().ok()?,
    ))
}

/// The incremental update of RFC 1624, equation 3.
fn update_checksum(checksum: u16, old: u16, new: u16) -> u16 {
    let mut sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    !u16::try_from(sum & 0xffff).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, TcpOptionElement};

    use super::*;

    fn segment() -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([198, 18, 0, 1], [198, 18, 0, 2], 64)
            .tcp(1000, 2000, 7, 8)
            .ack(9)
            .options(&[TcpOptionElement::Timestamp(11, 12)])
            .expect("options fit");
        let mut frame = Vec::new();
        builder
            .write(&mut frame, b"abc")
            .expect("a vector takes all");
        frame
    }

    #[test]
    fn a_padded_segment_is_read_by_its_ip_length() {
        let mut frame = segment();
        frame.extend([0; 20]);
        let tcp = tcp_identity(&frame).expect("it is TCP");
        assert_eq!((tcp.payload, tcp.sequence, tcp.acknowledgement), (3, 7, 9));
        assert_eq!(
            (tcp.timestamps, tcp.flags, tcp.vlan),
            (Some((11, 12)), 0x10, None)
        );
    }

    #[test]
    fn vxlan_shows_the_inner_segment() {
        let mut payload = vec![8, 0, 0, 0, 0, 1, 2, 0];
        payload.extend(segment());
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([198, 18, 9, 1], [198, 18, 9, 2], 64)
            .udp(5555, 8472)
            .write(&mut frame, &payload)
            .expect("a vector takes all");
        let tcp = tcp_identity(&frame).expect("it is TCP");
        assert_eq!((tcp.vni, tcp.source_port), (Some(0x102), 1000));
    }

    #[test]
    fn tags_go_on_and_off() {
        let plain = segment();
        let mut frame = plain.clone();
        retag(&mut frame, &VlanAction::Push(vec![100, 7]));
        assert_eq!(frame[12..20], [0x88, 0xa8, 0, 100, 0x81, 0, 0, 7]);
        assert_eq!(tcp_identity(&frame).and_then(|tcp| tcp.vlan), Some(100));
        retag(&mut frame, &VlanAction::Pop);
        assert_eq!(frame, plain);
    }

    #[test]
    fn dscp_keeps_the_header_checksum_right() {
        let mut frame = segment();
        set_dscp(&mut frame, 46);
        let ip = etherparse::Ipv4HeaderSlice::from_slice(&frame[14..]).expect("still IPv4");
        assert_eq!(ip.dcp().value(), 46);
        assert_eq!(ip.to_header().calc_header_checksum(), ip.header_checksum());
    }
}
