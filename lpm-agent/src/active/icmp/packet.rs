//! Echo messages as bytes (RFC 792 page 14, RFC 4443 section 4). Pure.
//!
//! The data begin with the session's token and the probe's number. Sequence numbers of 16 bits come
//! again after 65,536 probes, and a datagram socket's identifier may have been another program's.

/// Bytes before the data.
pub const HEADER: usize = 8;

/// Fewest bytes of data: token and number.
pub const SHORTEST: usize = 12;

/// Most bytes of data: with a header of IPv4, this fills the largest packet.
pub const LONGEST: usize = 65_507;

/// The type of a message that asks, and of the one that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Types {
    /// Echo request.
    pub request: u8,
    /// Echo reply.
    pub reply: u8,
}

impl Types {
    /// ICMP's types, or those of `ICMPv6`.
    #[must_use]
    pub const fn of(is_v6: bool) -> Self {
        if is_v6 {
            Self {
                request: 128,
                reply: 129,
            }
        } else {
            Self {
                request: 8,
                reply: 0,
            }
        }
    }
}

/// An echo message of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// The session's identifier. A datagram socket's kernel writes its own instead.
    pub id: u16,
    /// What the data begin with.
    pub token: u64,
    /// The probe's number, from 0. Its lower 16 bits are the sequence number.
    pub probe: u32,
}

impl Echo {
    /// Writes a request with so many bytes of data, at least [`SHORTEST`].
    #[must_use]
    pub fn request(&self, is_v6: bool, data: usize) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[0] = Types::of(is_v6).request;
        bytes[4..6].copy_from_slice(&self.id.to_be_bytes());
        bytes[6..8].copy_from_slice(&sequence(self.probe).to_be_bytes());
        bytes.extend(self.token.to_be_bytes());
        bytes.extend(self.probe.to_be_bytes());
        // As ping does: each byte is its place.
        let rest = (HEADER + SHORTEST)..(HEADER + data.max(SHORTEST));
        bytes.extend(rest.map(|at| at.to_be_bytes()[size_of::<usize>() - 1]));
        if !is_v6 {
            // ICMPv6 covers the addresses, too: the kernel knows them.
            let sum = checksum(&bytes);
            bytes[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        bytes
    }

    /// Reads an answer. None: it is another message, or cut short.
    #[must_use]
    pub fn reply(bytes: &[u8], is_v6: bool) -> Option<Self> {
        let (kind, id, sequence) = read(bytes)?;
        if kind != Types::of(is_v6).reply {
            return None;
        }
        let data = bytes.get(HEADER..)?;
        let (token, rest) = data.split_first_chunk()?;
        let echo = Self {
            id,
            token: u64::from_be_bytes(*token),
            probe: u32::from_be_bytes(*rest.first_chunk()?),
        };
        (self::sequence(echo.probe) == sequence).then_some(echo)
    }
}

/// Reads identifier and sequence number of a request that an ICMP error quotes. The error need not
/// quote more (RFC 792: 64 bits). None: it is another message.
#[must_use]
pub fn quoted(bytes: &[u8], is_v6: bool) -> Option<(u16, u16)> {
    let (kind, id, sequence) = read(bytes)?;
    (kind == Types::of(is_v6).request).then_some((id, sequence))
}

/// The sequence number of a probe: its lower 16 bits.
#[must_use]
pub const fn sequence(probe: u32) -> u16 {
    let [_, _, high, low] = probe.to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// Reads type, identifier and sequence number of a message whose code is 0.
fn read(bytes: &[u8]) -> Option<(u8, u16, u16)> {
    let &[kind, 0, _, _, a, b, c, d] = bytes.first_chunk::<HEADER>()? else {
        return None;
    };
    Some((kind, u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

/// Takes the IPv4 header off a packet of a raw socket. None: it is no whole header.
#[must_use]
pub fn without_ipv4_header(packet: &[u8]) -> Option<&[u8]> {
    let words = packet.first()? & 0xf;
    packet.get(usize::from(words.max(5)) * 4..)
}

/// The Internet checksum (RFC 1071).
pub(in crate::active) fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        u32::from(u16::from_be_bytes([pair[0], low]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ECHO: Echo = Echo {
        id: 0x1234,
        token: 0x0102_0304_0506_0708,
        probe: 0x0009_0007,
    };

    /// By hand from RFC 792, with the sum of RFC 1071.
    #[test]
    fn a_request_is_that_of_rfc_792() {
        let bytes = ECHO.request(false, 14);
        let expected = [
            8, 0, 0xc1, 0x8b, 0x12, 0x34, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 0, 7, 20, 21,
        ];
        assert_eq!(bytes, expected);
        assert_eq!(checksum(&bytes), 0, "with its checksum the sum is all ones");
        assert_eq!(ECHO.request(true, 0)[..4], [128, 0, 0, 0]);
        assert_eq!(ECHO.request(true, 0).len(), HEADER + SHORTEST);
        assert_eq!(checksum(&[1]), !0x0100, "an odd byte is the higher one");
    }

    #[test]
    fn an_answer_is_read_and_others_are_not() {
        let mut answer = ECHO.request(false, 56);
        assert_eq!(Echo::reply(&answer, false), None, "a request");
        answer[0] = 0;
        assert_eq!(Echo::reply(&answer, false), Some(ECHO));
        assert_eq!(Echo::reply(&answer, true), None, "the other family");
        for length in 0..HEADER + SHORTEST {
            assert_eq!(Echo::reply(&answer[..length], false), None, "{length}");
        }
        let mut other = answer.clone();
        other[1] = 1;
        assert_eq!(Echo::reply(&other, false), None, "a code");
        answer[7] = 8;
        assert_eq!(
            Echo::reply(&answer, false),
            None,
            "the number does not fit the sequence number"
        );
    }

    #[test]
    fn a_quoted_request_needs_its_header_only() {
        let request = ECHO.request(true, 56);
        assert_eq!(quoted(&request[..8], true), Some((0x1234, 7)));
        assert_eq!(quoted(&request[..7], true), None);
        assert_eq!(quoted(&request, false), None);
        assert_eq!(sequence(65_536), 0);
    }

    #[test]
    fn an_ipv4_header_with_options_is_taken_off() {
        let mut packet = vec![0x47; 28];
        packet.extend(b"echo");
        assert_eq!(without_ipv4_header(&packet), Some(&b"echo"[..]));
        assert_eq!(without_ipv4_header(&packet[..27]), None);
        assert_eq!(without_ipv4_header(&[]), None);
        assert_eq!(without_ipv4_header(&[0; 20]), Some(&[][..]));
    }
}
