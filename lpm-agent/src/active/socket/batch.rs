//! Packets that are received or sent by one system call (recvmmsg(2), sendmmsg(2)).

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::{AsRawFd, BorrowedFd},
};

use super::{
    Outgoing, Received,
    control::{self, Written},
};

/// Most packets of one system call.
pub const BATCH: usize = 32;

/// Bytes of a packet for which room is used anyway. What is longer takes further pages of memory.
const SHORT: usize = 256;

/// Bytes of an address as the kernel knows it (`sockaddr_in6`).
const NAME: usize = 28;

/// Bytes of control messages with a packet of the error queue, which has all those of a received
/// packet, too.
const CONTROL: usize = 384;

/// What the kernel writes beside a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    name: [u8; NAME],
    name_length: usize,
    control: [u8; CONTROL],
    control_length: usize,
    length: usize,
    flags: i32,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            name: [0; NAME],
            name_length: 0,
            control: [0; CONTROL],
            control_length: 0,
            length: 0,
            flags: 0,
        }
    }
}

impl Slot {
    /// What the control messages tell.
    pub(super) fn told(&self) -> control::Told {
        control::read(self.control.get(..self.control_length).unwrap_or_default())
    }

    /// What is known of a received packet. `own`: the address of the socket, where there is only one.
    /// None: the packet has no sender.
    pub(super) fn received(&self, own: Option<IpAddr>) -> Option<Received> {
        let told = self.told();
        Some(Received {
            length: self.length,
            is_cut: self.flags & libc::MSG_TRUNC != 0,
            from: address(self.name.get(..self.name_length)?)?,
            to: told.to.or(own),
            stamp: told.stamp,
            ttl: told.ttl,
            traffic_class: told.traffic_class,
        })
    }
}

/// Reads an address (`sockaddr_in`, `sockaddr_in6`).
fn address(name: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*name.first_chunk()?);
    let port = u16::from_be_bytes(*name.get(2..)?.first_chunk()?);
    match i32::from(family) {
        libc::AF_INET => {
            let address = Ipv4Addr::from(*name.get(4..)?.first_chunk::<4>()?);
            Some(SocketAddr::from((address, port)))
        }
        libc::AF_INET6 => {
            let address = Ipv6Addr::from(*name.get(8..)?.first_chunk::<16>()?);
            // The interface of a link-local address: the answer needs it.
            let scope = u32::from_ne_bytes(*name.get(24..)?.first_chunk()?);
            Some(SocketAddr::V6(SocketAddrV6::new(address, port, 0, scope)))
        }
        _ => None,
    }
}

/// Writes an address. Returns its length, too.
fn name_of(address: SocketAddr) -> ([u8; NAME], usize) {
    let mut name = [0; NAME];
    name[2..4].copy_from_slice(&address.port().to_be_bytes());
    let (family, length) = match address {
        SocketAddr::V4(v4) => {
            name[4..8].copy_from_slice(&v4.ip().octets());
            (libc::AF_INET, 16)
        }
        SocketAddr::V6(v6) => {
            // The flow label, in network byte order as `sin6_flowinfo` is.
            name[4..8].copy_from_slice(&v6.flowinfo().to_ne_bytes());
            name[8..24].copy_from_slice(&v6.ip().octets());
            name[24..].copy_from_slice(&v6.scope_id().to_ne_bytes());
            (libc::AF_INET6, NAME)
        }
    };
    let family = u16::try_from(family).unwrap_or_default();
    name[..2].copy_from_slice(&family.to_ne_bytes());
    (name, length)
}

/// A number as the C library has it at this place: libraries differ in the types.
fn fit<T: TryFrom<usize> + Default>(number: usize) -> T {
    T::try_from(number).unwrap_or_default()
}

/// A length that the C library has in a type of its own.
fn length_of(length: impl TryInto<usize>) -> usize {
    length.try_into().unwrap_or_default()
}

/// An empty `mmsghdr`.
fn header() -> libc::mmsghdr {
    // SAFETY: all bits zero are a valid `mmsghdr`: null pointers with lengths of 0.
    unsafe { std::mem::zeroed() }
}

/// Receives packets, as many as there are, slots and buffers. Each packet fills its two buffers one
/// after the other. Returns their number, 0 if there is none.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    slots: &mut [Slot],
    buffers: &mut [[IoSliceMut<'_>; 2]],
    flags: usize,
) -> io::Result<usize> {
    let mut headers = [header(); BATCH];
    let mut count = 0;
    for ((header, slot), buffers) in headers.iter_mut().zip(&mut *slots).zip(buffers) {
        let header = &mut header.msg_hdr;
        header.msg_name = slot.name.as_mut_ptr().cast();
        header.msg_namelen = fit(NAME);
        // IoSliceMut has the layout of iovec, as std guarantees.
        header.msg_iov = buffers.as_mut_ptr().cast();
        header.msg_iovlen = fit(2);
        header.msg_control = slot.control.as_mut_ptr().cast();
        header.msg_controllen = fit(CONTROL);
        count += 1;
    }
    // SAFETY: each of the `count` headers points to a name, buffers and control messages of the
    // lengths that it says. All outlive the call, and nothing else refers to them meanwhile.
    let received = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            count,
            fit(flags),
            std::ptr::null_mut(),
        )
    };
    let Ok(received) = usize::try_from(received) else {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::WouldBlock {
            Ok(0)
        } else {
            Err(error)
        };
    };
    for (header, slot) in headers.iter().zip(slots).take(received) {
        slot.name_length = length_of(header.msg_hdr.msg_namelen);
        slot.control_length = length_of(header.msg_hdr.msg_controllen);
        slot.length = length_of(header.msg_len);
        slot.flags = header.msg_hdr.msg_flags;
    }
    Ok(received)
}

/// Memory for packets that arrive together.
#[derive(Debug)]
pub struct Inbox {
    slots: Box<[Slot]>,
    /// The first bytes of each packet.
    heads: Box<[u8]>,
    /// For each packet room for its head and what is longer.
    wholes: Box<[u8]>,
    longest: usize,
    count: usize,
    /// The address of the socket, where there is only one.
    own: Option<IpAddr>,
}

impl Inbox {
    /// Takes memory for packets of so many bytes. Pages that no packet needs stay untouched.
    #[must_use]
    pub fn new(longest: usize) -> Self {
        let longest = longest.max(SHORT);
        Self {
            slots: vec![Slot::default(); BATCH].into_boxed_slice(),
            heads: vec![0; BATCH * SHORT].into_boxed_slice(),
            wholes: vec![0; BATCH * longest].into_boxed_slice(),
            longest,
            count: 0,
            own: None,
        }
    }

    /// Receives the packets that have arrived. Returns their number.
    pub(super) fn fill(
        &mut self,
        socket: BorrowedFd<'_>,
        own: Option<IpAddr>,
    ) -> io::Result<usize> {
        (self.count, self.own) = (0, own);
        let mut heads = self.heads.chunks_exact_mut(SHORT);
        let mut wholes = self.wholes.chunks_exact_mut(self.longest);
        let mut buffers: [[IoSliceMut<'_>; 2]; BATCH] = std::array::from_fn(|_| {
            let head = heads.next().unwrap_or_default();
            let rest = wholes.next().and_then(|whole| whole.get_mut(SHORT..));
            [head, rest.unwrap_or_default()].map(IoSliceMut::new)
        });
        self.count = receive(socket, &mut self.slots, &mut buffers, 0)?;
        for at in 0..self.count {
            self.join(at);
        }
        Ok(self.count)
    }

    /// Puts the head of a packet before the rest, if there is a rest.
    fn join(&mut self, at: usize) {
        let is_long = self.slots.get(at).is_some_and(|slot| slot.length > SHORT);
        let head = self.heads.get(at * SHORT..(at + 1) * SHORT);
        let place = at * self.longest;
        let whole = self.wholes.get_mut(place..place + SHORT);
        if let (true, Some(head), Some(whole)) = (is_long, head, whole) {
            whole.copy_from_slice(head);
        }
    }

    /// One of the packets that were received last, and its bytes. None: there are fewer, or it has
    /// no sender.
    #[must_use]
    pub fn packet(&self, at: usize) -> Option<(Received, &[u8])> {
        let slot = self.slots.get(at).filter(|_| at < self.count)?;
        let bytes = if slot.length > SHORT {
            self.wholes.get(at * self.longest..)?
        } else {
            self.heads.get(at * SHORT..)?
        };
        Some((slot.received(self.own)?, bytes.get(..slot.length)?))
    }
}

/// A packet to send.
#[derive(Clone, Debug)]
struct Letter {
    /// Where its bytes begin.
    start: usize,
    length: usize,
    name: [u8; NAME],
    name_length: usize,
    control: Written,
    /// Whether its time of sending is asked for.
    is_timed: bool,
    number: Option<u64>,
}

/// Packets that are sent together.
#[derive(Debug)]
pub struct Outbox {
    bytes: Box<[u8]>,
    letters: Vec<Letter>,
    /// Bytes that packets take.
    used: usize,
    longest: usize,
}

impl Outbox {
    /// Takes memory for packets of so many bytes. Pages that no packet needs stay untouched.
    #[must_use]
    pub fn new(longest: usize) -> Self {
        Self {
            bytes: vec![0; BATCH * longest].into_boxed_slice(),
            letters: Vec::with_capacity(BATCH),
            used: 0,
            longest,
        }
    }

    /// A box with one packet.
    pub(super) fn of_one(packet: &[u8], to: SocketAddr, how: Outgoing) -> Self {
        let mut outbox = Self {
            bytes: packet.into(),
            letters: Vec::with_capacity(1),
            used: 0,
            longest: packet.len(),
        };
        outbox.push(packet.len(), to, how, None);
        if let Some(letter) = outbox.letters.first_mut() {
            // The socket asks for the times of all its packets.
            letter.is_timed = true;
        }
        outbox
    }

    /// Room for one more packet. It is empty if the box is full.
    pub fn room(&mut self) -> &mut [u8] {
        let is_full = self.letters.len() >= BATCH;
        let longest = if is_full { 0 } else { self.longest };
        self.bytes
            .get_mut(self.used..self.used + longest)
            .unwrap_or_default()
    }

    /// Adds the packet whose bytes were written into [`Self::room`]. `times`: the times of sending
    /// that are asked for (`SOF_TIMESTAMPING_TX_*`).
    pub(super) fn push(
        &mut self,
        length: usize,
        to: SocketAddr,
        how: Outgoing,
        times: Option<u32>,
    ) {
        let (name, name_length) = name_of(to);
        self.letters.push(Letter {
            start: self.used,
            length,
            name,
            name_length,
            control: Written::new(to.ip().to_canonical().is_ipv4(), how, times),
            is_timed: times.is_some(),
            number: None,
        });
        self.used += length;
    }

    /// Packets in the box.
    #[must_use]
    pub fn len(&self) -> usize {
        self.letters.len()
    }

    /// Whether there is no packet in the box.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }

    /// The number on the socket of a packet that was sent. None: its time will not be told.
    #[must_use]
    pub fn number(&self, at: usize) -> Option<u64> {
        self.letters.get(at)?.number
    }

    /// Takes all packets out of the box.
    pub fn clear(&mut self) {
        self.letters.clear();
        self.used = 0;
    }

    /// Sends the packets from the one at `from` on. Returns how many were sent; an error is about
    /// the first. `number` gives those their numbers whose time is asked for.
    pub(super) fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        from: usize,
        mut number: impl FnMut() -> Option<u64>,
    ) -> io::Result<usize> {
        let mut headers = [header(); BATCH];
        let mut parts = [libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        }; BATCH];
        let mut count = 0;
        let letters = self.letters.get(from..).unwrap_or_default();
        for ((header, part), letter) in headers.iter_mut().zip(&mut parts).zip(letters) {
            let bytes = self.bytes.get(letter.start..letter.start + letter.length);
            let bytes = bytes.unwrap_or_default();
            // The kernel only reads what is sent, in spite of the pointers' types.
            part.iov_base = bytes.as_ptr().cast_mut().cast();
            part.iov_len = bytes.len();
            let control = letter.control.as_bytes();
            let header = &mut header.msg_hdr;
            header.msg_name = letter.name.as_ptr().cast_mut().cast();
            header.msg_namelen = fit(letter.name_length);
            header.msg_iov = std::ptr::from_mut(part);
            header.msg_iovlen = fit(1);
            header.msg_control = control.as_ptr().cast_mut().cast();
            header.msg_controllen = fit(control.len());
            count += 1;
        }
        // SAFETY: each of the `count` headers points to a name, one buffer and control messages of
        // the lengths that it says. All outlive the call, and the kernel writes to the headers only.
        let sent =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, fit(0)) };
        let sent = usize::try_from(sent).map_err(|_| io::Error::last_os_error())?;
        for letter in self.letters.iter_mut().skip(from).take(sent) {
            letter.number = if letter.is_timed { number() } else { None };
        }
        Ok(sent)
    }
}
