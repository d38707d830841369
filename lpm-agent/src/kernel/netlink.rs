//! rtnetlink without an event loop: a socket for requests and answers, and a listener for changes.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{RouteNetlinkMessage, link::LinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt};

/// Multicast group `RTNLGRP_LINK`: interfaces that appear, change and vanish.
const RTNLGRP_LINK: u32 = 1;

/// Bytes of messages that may wait. The kernel doubles it for its own bookkeeping.
const RECEIVE_BUFFER: usize = 2 << 20;

/// Attempts at a dump whose tables the kernel changed meanwhile.
const DUMP_ATTEMPTS: usize = 8;

/// A socket for requests, bound to the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Route {
    socket: Socket,
    sequence: u32,
}

impl Route {
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Sends a request that changes something and waits for the kernel's acknowledgement.
    pub(crate) fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.answers(|_| {}).map(drop)
    }

    /// Asks for a whole table, and again if it changed during the reading.
    pub(crate) fn dump(
        &mut self,
        message: &RouteNetlinkMessage,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..DUMP_ATTEMPTS {
            self.send(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            let mut found = Vec::new();
            if self.answers(|message| found.push(message))? {
                return Ok(found);
            }
        }
        Err(io::Error::other(
            "the table kept changing while it was being read",
        ))
    }

    /// Asks for one object.
    ///
    /// # Errors
    /// `ENODEV`: there is no such interface (any more).
    pub(crate) fn get(
        &mut self,
        message: RouteNetlinkMessage,
    ) -> io::Result<Option<RouteNetlinkMessage>> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK)?;
        let mut found = None;
        self.answers(|message| found = Some(message))?;
        Ok(found)
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut buffer = vec![0; packet.buffer_len()];
        packet.serialize(&mut buffer);
        self.socket.send(&buffer, 0).map(drop)
    }

    /// Reads up to the end of the answer. False: the answer is inconsistent, so ask again.
    fn answers(&mut self, mut each: impl FnMut(RouteNetlinkMessage)) -> io::Result<bool> {
        let mut consistent = true;
        loop {
            let (buffer, _) = self.socket.recv_from_full()?;
            for packet in packets(&buffer) {
                // An earlier request that failed halfway left this unread.
                if packet.sequence != self.sequence {
                    continue;
                }
                consistent &= packet.flags & NLM_F_DUMP_INTR == 0;
                match packet.payload {
                    Some(NetlinkPayload::InnerMessage(message)) => each(message),
                    Some(NetlinkPayload::Done(_)) => return Ok(consistent),
                    Some(NetlinkPayload::Error(error)) => {
                        return match error.code {
                            None => Ok(consistent),
                            Some(_) => Err(error.to_io()),
                        };
                    }
                    _ => {}
                }
            }
        }
    }
}

/// A message to the listener.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A link message. True: the interface appeared or changed. False: it vanished.
    Link(Box<LinkMessage>, bool),
    /// The kernel dropped messages. The known state of the interfaces may be wrong.
    Lost,
}

/// A socket that receives every change of an interface.
#[derive(Debug)]
pub(crate) struct Listener(Socket);

impl Listener {
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.add_membership(RTNLGRP_LINK)?;
        socket.set_non_blocking(true)?;
        let listener = Self(socket);
        // A burst of a thousand interfaces fits. Where that is not allowed, a loss is noticed all
        // the same, and a dump makes it good.
        if let Err(error) = setsockopt(&listener, sockopt::RcvBufForce, &RECEIVE_BUFFER) {
            tracing::debug!(%error, "the netlink receive buffer could not be enlarged");
        }
        Ok(listener)
    }

    /// Reads everything that waits in the socket.
    pub(crate) fn drain(&self) -> io::Result<Vec<Heard>> {
        let mut heard = Vec::new();
        loop {
            let buffer = match self.0.recv_from_full() {
                Ok((buffer, _)) => buffer,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(heard),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    heard.push(Heard::Lost);
                    continue;
                }
                Err(error) => return Err(error),
            };
            for packet in packets::<RouteNetlinkMessage>(&buffer) {
                match packet.payload {
                    Some(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link))) => {
                        heard.push(Heard::Link(Box::new(link), true));
                    }
                    Some(NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link))) => {
                        heard.push(Heard::Link(Box::new(link), false));
                    }
                    // A message that this crate cannot parse may be one we need.
                    None => heard.push(Heard::Lost),
                    Some(_) => {}
                }
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket is open as long as self is, and the borrow is of self.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

pub(crate) struct Packet<M> {
    sequence: u32,
    flags: u16,
    /// The parsed message. None: it was not understood.
    pub(crate) payload: Option<NetlinkPayload<M>>,
}

/// Splits a datagram into its messages.
pub(crate) fn packets<M: NetlinkDeserializable>(mut buffer: &[u8]) -> Vec<Packet<M>> {
    let mut packets = Vec::new();
    while let Some(length) = buffer
        .first_chunk()
        .map(|bytes| u32::from_ne_bytes(*bytes) as usize)
    {
        // A header is 16 bytes: anything shorter, or past the end, is no message.
        if length < 16 || length > buffer.len() {
            break;
        }
        let flags = u16::from_ne_bytes([buffer[6], buffer[7]]);
        let sequence = u32::from_ne_bytes([buffer[8], buffer[9], buffer[10], buffer[11]]);
        let payload = match NetlinkMessage::deserialize(&buffer[..length]) {
            Ok(message) => Some(message.payload),
            Err(error) => {
                tracing::warn!(%error, "the kernel sent a netlink message that the agent cannot read");
                None
            }
        };
        packets.push(Packet {
            sequence,
            flags,
            payload,
        });
        buffer = &buffer[length.next_multiple_of(4).min(buffer.len())..];
    }
    packets
}
