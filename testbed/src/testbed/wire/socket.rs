//! A packet socket with a receive ring: frames arrive in shared memory, each
//! with the kernel's timestamp, and leave by `send`.
//!
//! `TPACKET_V2`, because version 3 hands over whole blocks and so delays the
//! single packet by up to a millisecond.

use std::{
    io,
    mem::{offset_of, size_of},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU32, Ordering},
};

const FRAMES: usize = 4096;
const FRAMES_PER_BLOCK: usize = 64;

/// A packet socket bound to one interface, without its receive ring's reader.
#[derive(Debug)]
pub(super) struct PacketSocket {
    fd: OwnedFd,
}

/// The receive ring of a [`PacketSocket`].
#[derive(Debug)]
pub(super) struct Ring {
    memory: NonNull<u8>,
    bytes: usize,
    frame_bytes: usize,
    next: usize,
}

// SAFETY: the ring owns its mapping and is used by one thread at a time (all
// methods that touch it take `&mut self`).
unsafe impl Send for Ring {}

/// A frame as it was received.
#[derive(Debug)]
pub(super) struct Captured {
    /// The Ethernet frame, tags included.
    pub(super) frame: Vec<u8>,
    /// `CLOCK_REALTIME` in ns, taken by the kernel on reception.
    pub(super) realtime_ns: u64,
    /// The frame did not fit the ring: offloads are on somewhere.
    pub(super) truncated: bool,
}

impl PacketSocket {
    /// Opens a socket on an interface of the calling thread's namespace, and
    /// its ring for frames of up to `frame_bytes`.
    pub(super) fn open(interface: &str, frame_bytes: usize) -> io::Result<(Self, Ring)> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just opened and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let socket = Self { fd };
        let packet = libc::SOL_PACKET;
        socket.set(
            packet,
            libc::PACKET_VERSION,
            &(libc::tpacket_versions::TPACKET_V2 as i32),
        )?;
        socket.set(packet, libc::PACKET_IGNORE_OUTGOING, &1_i32)?;
        socket.set(packet, libc::PACKET_QDISC_BYPASS, &1_i32)?;
        // Makes the kernel stamp packets when they enter, not when they are
        // copied to the ring.
        socket.set(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &1_i32)?;
        socket.set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &(8_i32 << 20))?;
        let ring = socket.map_ring((frame_bytes + 256).next_power_of_two())?;
        socket.bind(interface)?;
        Ok((socket, ring))
    }

    /// Sends one Ethernet frame.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: pointer and length are those of a live slice.
        let sent =
            unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Packets the ring had no room for, since the last call.
    pub(super) fn missed(&self) -> io::Result<u32> {
        let mut statistics = libc::tpacket_stats {
            tp_packets: 0,
            tp_drops: 0,
        };
        let mut length = socket_length::<libc::tpacket_stats>();
        // SAFETY: both pointers are to live locals and `length` is the size of
        // the first.
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                ptr::from_mut(&mut statistics).cast(),
                &raw mut length,
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(statistics.tp_drops)
        }
    }

    fn set<T>(&self, level: i32, option: i32, value: &T) -> io::Result<()> {
        // SAFETY: the pointer is to a live value and the length is its size.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                option,
                ptr::from_ref(value).cast(),
                socket_length::<T>(),
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    fn map_ring(&self, frame_bytes: usize) -> io::Result<Ring> {
        let bytes = frame_bytes * FRAMES;
        let count = |value: usize| u32::try_from(value).map_err(io::Error::other);
        let request = libc::tpacket_req {
            tp_block_size: count(frame_bytes * FRAMES_PER_BLOCK)?,
            tp_block_nr: count(FRAMES / FRAMES_PER_BLOCK)?,
            tp_frame_size: count(frame_bytes)?,
            tp_frame_nr: count(FRAMES)?,
        };
        self.set(libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        // SAFETY: a new shared mapping at an address of the kernel's choice;
        // the kernel refuses it unless `bytes` is the size of the ring.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                self.fd.as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Ring {
            memory,
            bytes,
            frame_bytes,
            next: 0,
        })
    }

    fn bind(&self, interface: &str) -> io::Result<()> {
        let name = std::ffi::CString::new(interface)?;
        // SAFETY: the name is a live string that ends with a zero.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        let index = i32::try_from(index).ok().filter(|index| *index > 0);
        let index = index.ok_or_else(io::Error::last_os_error)?;
        let membership = libc::packet_mreq {
            mr_ifindex: index,
            mr_type: u16::try_from(libc::PACKET_MR_PROMISC).map_err(io::Error::other)?,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        self.set(libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership)?;
        let every = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?;
        let address = libc::sockaddr_ll {
            sll_family: u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?,
            sll_protocol: every.to_be(),
            sll_ifindex: index,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: the pointer is to a live address and the length is its size.
        let result = unsafe {
            libc::bind(
                self.fd.as_raw_fd(),
                ptr::from_ref(&address).cast(),
                socket_length::<libc::sockaddr_ll>(),
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Ring {
    /// The next frame, if one is there.
    pub(super) fn next(&mut self) -> Option<Captured> {
        // SAFETY: `next` is below FRAMES, so the slot lies in the mapping.
        let slot = unsafe { self.memory.add(self.next * self.frame_bytes) };
        // SAFETY: every slot starts with a `tpacket2_hdr`, aligned to 16; the
        // kernel writes the status with a barrier, so it is read as an atomic.
        let status = unsafe {
            slot.add(offset_of!(libc::tpacket2_hdr, tp_status))
                .cast::<AtomicU32>()
                .as_ref()
        };
        let state = status.load(Ordering::Acquire);
        if state & libc::TP_STATUS_USER == 0 {
            return None;
        }
        // SAFETY: the status says that the slot is ours until we give it back.
        let header = unsafe { slot.cast::<libc::tpacket2_hdr>().as_ref() };
        let start = usize::from(header.tp_mac);
        let length = (header.tp_snaplen as usize).min(self.frame_bytes.saturating_sub(start));
        // SAFETY: start and length are within the slot, which is ours.
        let bytes = unsafe { std::slice::from_raw_parts(slot.add(start).as_ptr(), length) };
        // Room for two tags, so that adding them copies nothing twice.
        let mut frame = Vec::with_capacity(length + 8);
        frame.extend_from_slice(bytes);
        if state & libc::TP_STATUS_VLAN_VALID != 0 {
            // The kernel keeps the outer tag beside the frame.
            let known = state & libc::TP_STATUS_VLAN_TPID_VALID != 0;
            let protocol = if known { header.tp_vlan_tpid } else { 0x8100 };
            super::frame::insert_tag(&mut frame, protocol, header.tp_vlan_tci);
        }
        let captured = Captured {
            frame,
            realtime_ns: u64::from(header.tp_sec) * 1_000_000_000 + u64::from(header.tp_nsec),
            truncated: header.tp_len > header.tp_snaplen,
        };
        status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.next = (self.next + 1) % FRAMES;
        Some(captured)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `map_ring`, which nobody else has.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.bytes) };
    }
}

fn socket_length<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}
