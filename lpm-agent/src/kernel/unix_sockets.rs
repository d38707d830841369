//! Names of Unix sockets and who bound them: `NETLINK_SOCK_DIAG`, as in `sock_diag(7)`.

use std::{convert::Infallible, io};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

use super::netlink::packets;

/// `SOCK_DIAG_BY_FAMILY` of `linux/sock_diag.h`: the type of question and answer.
const BY_FAMILY: u16 = 20;

/// Bytes of `struct unix_diag_req` and of `struct unix_diag_msg` (`linux/unix_diag.h`).
const REQUEST: usize = 24;
const ANSWER: usize = 16;

/// `UDIAG_SHOW_NAME` and `UDIAG_SHOW_UID` (Linux 5.3).
const SHOW: u32 = 0x01 | 0x40;

/// Attributes `UNIX_DIAG_NAME` and `UNIX_DIAG_UID`.
const NAME: u16 = 0;
const UID: u16 = 7;

/// A socket with an abstract name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    /// Name without the zero that begins it.
    pub(crate) name: String,
    /// Id of the user whose process made the socket. None: the kernel does not say.
    pub(crate) owner: Option<u32>,
}

/// The sockets with abstract names in the calling thread's network namespace.
///
/// # Errors
/// The kernel's; `ENOENT`: it was built without `CONFIG_UNIX_DIAG`.
pub(crate) fn named() -> io::Result<Vec<Named>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(Question));
    packet.finalize();
    let mut buffer = vec![0; packet.buffer_len()];
    packet.serialize(&mut buffer);
    socket.send(&buffer, 0)?;
    let mut found = Vec::new();
    loop {
        let (buffer, _) = socket.recv_from_full()?;
        for packet in packets::<Answer>(&buffer) {
            match packet.payload {
                Some(NetlinkPayload::InnerMessage(Answer(named))) => found.extend(named),
                Some(NetlinkPayload::Done(_)) => return Ok(found),
                Some(NetlinkPayload::Error(error)) => return Err(error.to_io()),
                _ => {}
            }
        }
    }
}

/// The question for all Unix sockets.
#[derive(Debug)]
struct Question;

impl NetlinkSerializable for Question {
    fn message_type(&self) -> u16 {
        BY_FAMILY
    }

    fn buffer_len(&self) -> usize {
        REQUEST
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.fill(0);
        buffer[0] = u8::try_from(libc::AF_UNIX).unwrap_or(1);
        // Sockets in each state, then no inode, what is shown, and no cookie.
        buffer[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
        buffer[12..16].copy_from_slice(&SHOW.to_ne_bytes());
        buffer[16..24].fill(0xff);
    }
}

/// One socket. None: it has no abstract name.
#[derive(Debug)]
struct Answer(Option<Named>);

impl NetlinkDeserializable for Answer {
    type Error = Infallible;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self(parse(payload.get(ANSWER..).unwrap_or_default())))
    }
}

fn parse(attributes: &[u8]) -> Option<Named> {
    let (mut name, mut owner) = (None, None);
    for attribute in NlasIterator::new(attributes).flatten() {
        let value = attribute.value();
        match attribute.kind() {
            // A path begins with another byte, and a socket without a name has none.
            NAME => name = value.strip_prefix(b"\0").map(<[u8]>::to_vec),
            UID => owner = value.try_into().ok().map(u32::from_ne_bytes),
            _ => {}
        }
    }
    Some(Named {
        // Anybody can bind any bytes. What is no text is no name of ours.
        name: String::from_utf8(name?).ok()?,
        owner,
    })
}

#[cfg(test)]
mod tests {
    use std::os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    };

    use super::*;

    #[test]
    fn a_name_and_its_owner_are_found() {
        let name = format!("lpm-test/{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let _socket = UnixDatagram::bind_addr(&address).expect("bind");
        let found = named().expect("sock_diag");
        let found = found.iter().find(|socket| socket.name == name);
        let owner = found.expect("the socket").owner;
        assert_eq!(owner, Some(nix::unistd::geteuid().as_raw()));
    }

    #[test]
    fn what_lies_about_its_length_is_no_name() {
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&[200, 0, 0, 0, 0, b'x']), None);
        assert_eq!(parse(&[8, 0, 0, 0, b'/', b'r', b'u', b'n']), None, "a path");
        assert_eq!(parse(&[6, 0, 0, 0, 0, 0xff]), None, "no text");
    }
}
