//! Frames as they are, in and out of an interface.

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use lpm_testbed::testbed::Netns;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A packet socket. What it sends passes the hooks of the interface's egress.
pub struct Raw(OwnedFd);

impl Raw {
    /// Opens one on an interface of a namespace; it takes what comes in there.
    pub fn open(netns: &Netns, interface: &str) -> Self {
        let index = super::neighbour::index_of(netns, interface);
        let socket = netns.run_in(|| Self::bind(index)).expect("enter");
        socket.expect("a packet socket")
    }

    fn bind(index: u32) -> io::Result<Self> {
        let every = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?;
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, i32::from(every.to_be())) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it was just opened and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: an address is plain numbers.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
        address.sll_protocol = every.to_be();
        address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
        let length = libc::socklen_t::try_from(mem::size_of::<libc::sockaddr_ll>());
        // SAFETY: the pointer is to a live address, with its size.
        let bound = unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const address).cast(),
                length.map_err(io::Error::other)?,
            )
        };
        if bound != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(fd))
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: pointer and length are those of a live slice.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if usize::try_from(sent) == Ok(frame.len()) {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// The next frame, if one comes in time.
    pub fn receive_within(&self, limit: Duration) -> Option<Vec<u8>> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(limit).expect("a limit of seconds");
        if poll(&mut fds, limit).expect("poll") == 0 {
            return None;
        }
        let mut frame = vec![0; 1 << 16];
        // SAFETY: pointer and length are those of a live slice.
        let received = unsafe {
            libc::recv(
                self.0.as_raw_fd(),
                frame.as_mut_ptr().cast(),
                frame.len(),
                0,
            )
        };
        frame.truncate(usize::try_from(received).ok()?);
        Some(frame)
    }
}
