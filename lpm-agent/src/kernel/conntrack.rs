//! Follows connections whose destination is translated between two hooks, as kube-proxy does it.
//! The kernel's connection tracking reports when each one begins and ends.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::{Arc, PoisonError, RwLock},
    thread::{self, JoinHandle},
};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Tuple},
};
use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_NETFILTER};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        socket::{setsockopt, sockopt},
    },
};

use super::{
    netlink::packets,
    netns::{Netns, NetnsError},
};

/// Multicast group of new connections: `enum nfnetlink_groups` (linux/netfilter/nfnetlink.h).
const NFNLGRP_CONNTRACK_NEW: u32 = 1;
const NFNLGRP_CONNTRACK_DESTROY: u32 = 3;

/// Bytes of events that may wait in the socket.
const RECEIVE_BUFFER: usize = 2 << 20;

/// The backends of connections that somebody opened to an address that stands for others.
///
/// Dropping it ends its thread.
#[derive(Debug)]
pub struct Conntrack {
    table: Arc<RwLock<Table>>,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

/// Client and destination of a connection, as the client knows them.
type Ends = (SocketAddr, SocketAddr);

/// A report on translated TCP connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Translated {
    /// All connections that exist now, and their backends.
    All(Vec<(Ends, SocketAddr)>),
    /// Connections that have begun, with their backend, or have ended (None), in this order.
    Changed(Vec<(Ends, Option<SocketAddr>)>),
}

/// Table of translated connections.
#[derive(Debug)]
struct Table {
    /// The backend of each connection, by its client and destination.
    known: HashMap<Ends, SocketAddr>,
    /// Most connections that are kept, some 100 bytes each.
    most: usize,
    /// True: it was logged that connections found no room.
    warned: bool,
}

impl Table {
    fn new(most: usize) -> Self {
        Self {
            known: HashMap::new(),
            most,
            warned: false,
        }
    }

    /// A report of all connections in the table.
    fn all(&self) -> Translated {
        let known = self.known.iter();
        Translated::All(known.map(|(ends, backend)| (*ends, *backend)).collect())
    }

    fn begins(&mut self, ends: Ends, backend: SocketAddr) {
        if self.known.len() < self.most {
            self.known.insert(ends, backend);
        } else if !self.warned {
            self.warned = true;
            let most = self.most;
            tracing::warn!(
                most,
                "there are more connections to services than the agent remembers, so some flows \
                 lack their backend; raise conntrack.most"
            );
        }
    }

    /// Replaces the table by the connections that a dump found.
    fn replace(&mut self, found: Self) {
        self.known = found.known;
        self.warned |= found.warned;
    }
}

impl Conntrack {
    /// Starts to listen in a network namespace (`None`: that of the caller), and keeps `most`
    /// translated connections at most. `tell` is called with each report, whether the connection is
    /// kept or not, before or after this returns.
    ///
    /// # Errors
    /// The kernel has no connection tracking, or does not let us listen.
    pub fn start(
        netns: Option<Netns>,
        most: usize,
        mut tell: impl FnMut(Translated) + Send + 'static,
    ) -> io::Result<Self> {
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?);
        let table = Arc::new(RwLock::new(Table::new(most)));
        let (ready, begun) = std::sync::mpsc::channel();
        let (its_stop, its_table) = (Arc::clone(&stop), Arc::clone(&table));
        let thread = thread::Builder::new()
            .name("lpm-conntrack".to_owned())
            .spawn(move || {
                let entered = netns.map_or(Ok(()), |netns| netns.enter());
                let entered = entered.map_err(|error: NetnsError| io::Error::other(error));
                let listener = entered.and_then(|()| {
                    let listener = listen()?;
                    // Listening begins first, so that a connection that begins during the dump is
                    // heard.
                    tell(dump(&its_table)?);
                    Ok(listener)
                });
                match listener {
                    Ok(listener) => {
                        let _ = ready.send(Ok(()));
                        follow(&listener, &its_table, &its_stop, &mut tell);
                    }
                    Err(error) => drop(ready.send(Err(error))),
                }
            })?;
        begun
            .recv()
            .map_err(|_| io::Error::other("its thread panicked"))??;
        Ok(Self {
            table,
            stop,
            thread: Some(thread),
        })
    }

    /// The backend of the connection between these ends. None: it goes to `to` itself.
    #[must_use]
    pub fn backend(&self, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.known.get(&(from, to)).copied()
    }
}

impl Drop for Conntrack {
    fn drop(&mut self) {
        // The write fails only if the thread has ended.
        let _ = self.stop.write(1);
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the thread that follows connections panicked");
        }
    }
}

/// A [`Socket`] that can be polled.
struct Waitable(Socket);

impl AsFd for Waitable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket is open as long as self is, and the borrow is of self.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    Ok(socket)
}

fn listen() -> io::Result<Waitable> {
    let socket = open()?;
    socket.add_membership(NFNLGRP_CONNTRACK_NEW)?;
    socket.add_membership(NFNLGRP_CONNTRACK_DESTROY)?;
    socket.set_non_blocking(true)?;
    let socket = Waitable(socket);
    if let Err(error) = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER) {
        tracing::debug!(%error, "the netlink receive buffer could not be enlarged");
    }
    Ok(socket)
}

/// Replaces the table by all connections that are translated now.
fn dump(table: &RwLock<Table>) -> io::Result<Translated> {
    let socket = open()?;
    socket.connect(&NetlinkAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let message = NetfilterMessage::new(
        NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0),
        ConntrackMessage::Get(Vec::new()),
    );
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
    packet.finalize();
    let mut buffer = vec![0; packet.buffer_len()];
    packet.serialize(&mut buffer);
    socket.send(&buffer, 0)?;
    let most = table.read().unwrap_or_else(PoisonError::into_inner).most;
    let mut found = Table::new(most);
    loop {
        let (buffer, _) = socket.recv_from_full()?;
        for packet in packets::<NetfilterMessage>(&buffer) {
            match packet.payload {
                Some(NetlinkPayload::InnerMessage(message)) => drop(take(&message, &mut found)),
                Some(NetlinkPayload::Done(_)) => {
                    let mut table = table.write().unwrap_or_else(PoisonError::into_inner);
                    table.replace(found);
                    return Ok(table.all());
                }
                Some(NetlinkPayload::Error(error)) if error.code.is_some() => {
                    return Err(error.to_io());
                }
                _ => {}
            }
        }
    }
}

/// Receives events until it is told to stop.
fn follow(
    listener: &Waitable,
    table: &RwLock<Table>,
    stop: &EventFd,
    tell: &mut impl FnMut(Translated),
) {
    loop {
        let mut fds = [
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => {
                tracing::error!(%error, "the agent no longer follows connections: new flows to services lack their backends");
                return;
            }
        }
        if fds[1].any().unwrap_or(true) {
            return;
        }
        let Err(error) = drain(listener, table, tell) else {
            continue;
        };
        // ENOBUFS: more connections began than we could receive.
        tracing::debug!(%error, "the agent lists connections again");
        match dump(table) {
            Ok(all) => tell(all),
            Err(error) => {
                tracing::warn!(%error, "connections cannot be listed, so flows to services may lack their backends");
            }
        }
    }
}

fn drain(
    listener: &Waitable,
    table: &RwLock<Table>,
    tell: &mut impl FnMut(Translated),
) -> io::Result<()> {
    loop {
        let buffer = match listener.0.recv_from_full() {
            Ok((buffer, _)) => buffer,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let mut changes = Vec::new();
        let mut known = table.write().unwrap_or_else(PoisonError::into_inner);
        for packet in packets::<NetfilterMessage>(&buffer) {
            if let Some(NetlinkPayload::InnerMessage(message)) = packet.payload {
                changes.extend(take(&message, &mut known));
            }
        }
        drop(known);
        if !changes.is_empty() {
            tell(Translated::Changed(changes));
        }
    }
}

/// Applies one message to the table. Returns the change, if the connection is a translated one.
fn take(message: &NetfilterMessage, table: &mut Table) -> Option<(Ends, Option<SocketAddr>)> {
    let (attributes, begins) = match &message.inner {
        NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) => (attributes, true),
        NetfilterMessageInner::Conntrack(ConntrackMessage::Delete(attributes)) => {
            (attributes, false)
        }
        _ => return None,
    };
    let (mut asked, mut answers) = (None, None);
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => asked = ends(tuple),
            ConntrackAttribute::CtaTupleReply(tuple) => answers = ends(tuple),
            _ => {}
        }
    }
    let ((from, to), (backend, _)) = (asked?, answers?);
    if backend == to {
        return None;
    }
    if begins {
        table.begins((from, to), backend);
    } else {
        table.known.remove(&(from, to));
    }
    Some(((from, to), begins.then_some(backend)))
}

/// Source and destination of a TCP connection.
fn ends(tuple: &[Tuple]) -> Option<(SocketAddr, SocketAddr)> {
    let (mut source, mut destination): (Option<IpAddr>, Option<IpAddr>) = (None, None);
    let (mut from, mut to) = (None, None);
    for part in tuple {
        match part {
            Tuple::Ip(ips) => {
                for ip in ips {
                    match ip {
                        IPTuple::SourceAddress(address) => source = Some(*address),
                        IPTuple::DestinationAddress(address) => destination = Some(*address),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(protos) => {
                for proto in protos {
                    match proto {
                        // A connection of UDP may have the same ends.
                        ProtoTuple::Protocol(protocol) if *protocol != Protocol::Tcp => {
                            return None;
                        }
                        ProtoTuple::SourcePort(port) => from = Some(*port),
                        ProtoTuple::DestinationPort(port) => to = Some(*port),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(((source?, from?).into(), (destination?, to?).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(protocol: Protocol, from: SocketAddr, to: SocketAddr) -> Vec<Tuple> {
        vec![
            Tuple::Ip(vec![
                IPTuple::SourceAddress(from.ip()),
                IPTuple::DestinationAddress(to.ip()),
            ]),
            Tuple::Proto(vec![
                ProtoTuple::Protocol(protocol),
                ProtoTuple::SourcePort(from.port()),
                ProtoTuple::DestinationPort(to.port()),
            ]),
        ]
    }

    fn message(inner: ConntrackMessage) -> NetfilterMessage {
        NetfilterMessage::new(
            NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0),
            inner,
        )
    }

    #[test]
    fn translated_connections_come_and_go() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let (pod, service) = (address("198.18.4.2:4000"), address("198.18.250.1:80"));
        let backend = address("198.18.5.2:8080");
        let of = |protocol: Protocol, to| {
            vec![
                ConntrackAttribute::CtaTupleOrig(tuple(protocol, pod, service)),
                ConntrackAttribute::CtaTupleReply(tuple(protocol, to, pod)),
            ]
        };
        let attributes = |to| of(Protocol::Tcp, to);
        let mut table = Table::new(1);
        take(
            &message(ConntrackMessage::New(attributes(service))),
            &mut table,
        );
        assert!(table.known.is_empty(), "nothing is translated");
        let udp = of(Protocol::Udp, backend);
        let heard = take(&message(ConntrackMessage::New(udp)), &mut table);
        assert_eq!(heard, None, "a question may have the same ends");
        let heard = take(
            &message(ConntrackMessage::New(attributes(backend))),
            &mut table,
        );
        assert_eq!(heard, Some(((pod, service), Some(backend))));
        assert_eq!(table.known.get(&(pod, service)), Some(&backend));
        table.begins((service, pod), backend);
        assert_eq!(table.known.len(), 1, "no more than one");
        assert!(table.warned);
        let heard = take(
            &message(ConntrackMessage::Delete(attributes(backend))),
            &mut table,
        );
        assert_eq!(heard, Some(((pod, service), None)));
        assert!(table.known.is_empty());
    }
}
