//! Link types: the headers before the IP header.
//!
//! Numbers and layouts: <https://www.tcpdump.org/linktypes.html>

use lpm_common::parse::{Link, Skip};

const NULL: u16 = 0;
const ETHERNET: u16 = 1;
const LOOP: u16 = 108;
const LINUX_SLL: u16 = 113;
const LINUX_SLL2: u16 = 276;
/// Link types of raw IP: the registered number, and those that BSDs wrote before there was one.
const RAW: [u16; 3] = [101, 12, 14];
const IPV4: u16 = 228;
const IPV6: u16 = 229;

/// Remedy for a capture of another link type.
pub const REMEDY: &str =
    "give a capture of Ethernet, raw IP, null/loopback, or Linux cooked v1 or v2";

pub(super) const VLAN_TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];
const IP: [u16; 2] = [0x0800, 0x86dd];
/// Address families of IPv4 and IPv6 on the systems that write loopback captures.
const FAMILIES: [u32; 5] = [2, 10, 24, 28, 30];

/// A packet in the form that the parsers take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View<'a> {
    /// First header of the bytes.
    pub link: Link,
    /// Captured bytes.
    pub data: &'a [u8],
    /// Length on the wire, from where `data` begins, bytes.
    pub len: u32,
    /// VLAN ids from a pseudo header, as in [`lpm_common::layout::FlowCold::segment`].
    pub segment: u32,
    /// Interface number in a cooked v2 capture. 0: the capture has one interface.
    pub ifindex: u32,
}

/// True if packets of this link type are read.
#[must_use]
pub fn is_known(number: u16) -> bool {
    matches!(
        number,
        NULL | ETHERNET | LOOP | LINUX_SLL | LINUX_SLL2 | IPV4 | IPV6
    ) || RAW.contains(&number)
}

/// True if a capture of this link type mixes several interfaces that cannot be told apart.
#[must_use]
pub fn mixes_interfaces(number: u16) -> bool {
    number == LINUX_SLL
}

/// The name of a link type, for the common ones.
#[must_use]
pub fn name(number: u16) -> &'static str {
    match number {
        NULL => "NULL",
        ETHERNET => "ETHERNET",
        6 => "IEEE802_5",
        9 => "PPP",
        10 => "FDDI",
        _ if RAW.contains(&number) => "RAW",
        104 => "C_HDLC",
        105 => "IEEE802_11",
        LOOP => "LOOP",
        LINUX_SLL => "LINUX_SLL",
        127 => "IEEE802_11_RADIOTAP",
        143 => "DOCSIS",
        147..=162 => "USER",
        187 => "BLUETOOTH_HCI_H4",
        189 => "USB_LINUX",
        195 => "IEEE802_15_4_WITHFCS",
        220 => "USB_LINUX_MMAPPED",
        227 => "CAN_SOCKETCAN",
        IPV4 => "IPV4",
        IPV6 => "IPV6",
        239 => "NFLOG",
        249 => "USBPCAP",
        252 => "WIRESHARK_UPPER_PDU",
        253 => "NETLINK",
        LINUX_SLL2 => "LINUX_SLL2",
        _ => "a number without a name here",
    }
}

/// Removes the headers that the parsers do not know.
///
/// # Errors
/// [`Skip`]: the packet holds nothing to measure.
pub fn view(number: u16, data: &[u8], len: u32) -> Result<View<'_>, Skip> {
    match number {
        ETHERNET => Ok(View {
            link: Link::Ethernet,
            data,
            len,
            segment: 0,
            ifindex: 0,
        }),
        NULL | LOOP => {
            let family = data.first_chunk().ok_or(Skip::Truncated)?;
            let either = [u32::from_ne_bytes(*family), u32::from_be_bytes(*family)];
            let either = either.into_iter().chain([u32::from_le_bytes(*family)]);
            if either.into_iter().any(|family| FAMILIES.contains(&family)) {
                Ok(ip(data, len, 4, 0, 0))
            } else {
                Err(Skip::NotIp)
            }
        }
        LINUX_SLL => cooked(data, len, be16(data, 14)?, 16, 0),
        LINUX_SLL2 => {
            let ifindex = data.get(4..8).and_then(|bytes| bytes.first_chunk());
            let ifindex = u32::from_be_bytes(*ifindex.ok_or(Skip::Truncated)?);
            cooked(data, len, be16(data, 0)?, 20, ifindex)
        }
        _ => Ok(ip(data, len, 0, 0, 0)),
    }
}

/// Follows VLAN tags after a cooked header, whose last word is an ethertype.
fn cooked(
    data: &[u8],
    len: u32,
    mut ethertype: u16,
    mut at: usize,
    ifindex: u32,
) -> Result<View<'_>, Skip> {
    let (mut segment, mut shift) = (0, 0);
    while VLAN_TAGS.contains(&ethertype) {
        if shift > 12 {
            return Err(Skip::TooDeep);
        }
        segment |= u32::from(be16(data, at)? & 0xfff) << shift;
        shift += 12;
        ethertype = be16(data, at + 2)?;
        at += 4;
    }
    if IP.contains(&ethertype) {
        Ok(ip(data, len, at, segment, ifindex))
    } else {
        Err(Skip::NotIp)
    }
}

fn ip(data: &[u8], len: u32, header: usize, segment: u32, ifindex: u32) -> View<'_> {
    View {
        link: Link::Ip,
        data: data.get(header..).unwrap_or_default(),
        len: len.saturating_sub(u32::try_from(header).unwrap_or(u32::MAX)),
        segment,
        ifindex,
    }
}

fn be16(data: &[u8], at: usize) -> Result<u16, Skip> {
    let bytes = data.get(at..).and_then(|rest| rest.first_chunk());
    bytes
        .map(|bytes| u16::from_be_bytes(*bytes))
        .ok_or(Skip::Truncated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_of_either_byte_order() {
        for (family, fits) in [
            ([2, 0, 0, 0], true),
            ([0, 0, 0, 2], true),
            ([30, 0, 0, 0], true),
            ([0, 0, 0, 24], true),
            ([7, 0, 0, 0], false),
        ] {
            let frame = [&family[..], &[0x45, 0, 0, 20]].concat();
            let view = view(NULL, &frame, 24);
            assert_eq!(view.is_ok(), fits, "{family:?}");
            if let Ok(view) = view {
                assert_eq!(
                    (view.link, view.data, view.len),
                    (Link::Ip, &frame[4..], 20)
                );
            }
        }
    }

    #[test]
    fn cooked_headers() {
        let mut first = vec![0; 16];
        first[14..].copy_from_slice(&[0x08, 0x00]);
        first.push(0x45);
        let seen = view(LINUX_SLL, &first, 17).expect("IP");
        assert_eq!((seen.data, seen.len, seen.ifindex), (&[0x45_u8][..], 1, 0));

        let mut second = vec![0; 20];
        second[..8].copy_from_slice(&[0x81, 0x00, 0, 0, 0, 0, 0, 9]);
        // A tag of VLAN 5, then IPv6.
        second.extend([0, 5, 0x86, 0xdd, 0x60]);
        let seen = view(LINUX_SLL2, &second, 100).expect("IP");
        assert_eq!((seen.segment, seen.ifindex, seen.len), (5, 9, 76));
        assert_eq!(seen.data, [0x60]);

        second[..2].copy_from_slice(&[0x08, 0x06]);
        assert_eq!(view(LINUX_SLL2, &second, 100), Err(Skip::NotIp), "ARP");
        assert_eq!(view(LINUX_SLL2, &second[..3], 100), Err(Skip::Truncated));
    }
}
